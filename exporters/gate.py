"""What does a smaller precision lose? Asked on labelled sounds, as a search would ask them.

A labelled set is a CSV or TSV file with the columns ``path`` (relative to the file) and ``text``. Each text is asked
for once; right are all sounds that have it; a sound counts by its best window. ``mAP@10`` is the mean over the texts of

    (sum over ranks r <= 10 with a right sound of: right sounds up to r / r) / min(10, right sounds there are).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.audio import naming, open_clip
from engine.bundle import Bundle
from engine.encoders import OnnxAudioEncoder, OnnxTextEncoder, encode_windows
from engine.errors import BundleError
from engine.types import FloatArray
from engine.windows import cut

DEPTH = 10
#: A smaller precision may lose so much mAP@10, one point of a hundred.
MOST_LOSS = 0.01


class GateError(BundleError):
    """A labelled set that can't be used, or a precision that loses too much on it."""


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Sounds with the text that each answers."""

    name: str
    paths: tuple[Path, ...]
    texts: tuple[str, ...]


def read_set(path: Path) -> LabelledSet:
    """Read a labelled set. Raises ``GateError``: no such file, other columns, sounds missing, too few texts."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GateError(f"{path} ({error})", "a CSV or TSV file", "see docs/bundles.md") from error
    if not rows or not {"path", "text"} <= rows[0].keys():
        found = ", ".join(rows[0]) if rows else "no rows"
        raise GateError(f"{path} with {found}", "columns path and text", "see docs/bundles.md")
    sounds = tuple(path.parent / (row["path"] or "") for row in rows)
    missing = [str(sound) for sound in sounds if not sound.is_file()]
    texts = tuple(row["text"] or "" for row in rows)
    if missing or not all(texts) or len(set(texts)) < 2:
        what = f"{len(missing)} sounds missing, the first {missing[0]}" if missing else f"{len(set(texts))} texts"
        raise GateError(f"{path}: {what}", "sounds that are there, with at least two different texts", "mend the file")
    return LabelledSet(path.name, sounds, texts)


def scores(bundle: Bundle, labelled: LabelledSet) -> dict[str, float]:
    """``R@1`` and ``mAP@10`` of a bundle, 0..1: texts asked, sounds found. Raises ``AudioError``, ``BundleError``."""
    audio, text = OnnxAudioEncoder(bundle, "cpu"), OnnxTextEncoder(bundle, "cpu")
    space = bundle.manifest.space
    asked = sorted(set(labelled.texts))
    vectors = np.concatenate([text.encode_text([one]) for one in asked])
    columns = []
    for path in labelled.paths:
        with naming(path):
            blocks = open_clip(path, space.sample_rate_hz).blocks
            windows = np.stack([vector for _, vector in encode_windows(audio, cut(blocks, space))])
        columns.append((vectors @ windows.T).max(1))
    return ranked(np.stack(columns, axis=1), [[label == one for label in labelled.texts] for one in asked])


def ranked(cosines: FloatArray, right: Sequence[Sequence[bool]]) -> dict[str, float]:
    """``R@1`` and ``mAP@10`` of cosines ``[texts, sounds]``; of equal ones the earlier sound comes first."""
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
    hits = np.take_along_axis(np.asarray(right), order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    most = np.minimum(DEPTH, np.asarray(right).sum(1))
    return {"R@1": float(hits[:, 0].mean()), "mAP@10": float(((precision * hits).sum(1) / most).mean())}


def compare(exact: Mapping[str, float], found: Mapping[str, float], labelled: LabelledSet) -> dict[str, Any]:
    """What the manifest says of a precision. Raises ``GateError`` where it loses more than ``MOST_LOSS``."""
    loss = exact["mAP@10"] - found["mAP@10"]
    if loss > MOST_LOSS:
        raise GateError(
            f"mAP@10 of {found['mAP@10']:.3f} on {labelled.name}, {exact['mAP@10']:.3f} in fp32",
            f"a loss of at most {MOST_LOSS}",
            "export it in fp16 or fp32",
        )
    counts = {"sounds": len(labelled.paths), "texts": len(set(labelled.texts))}
    fp32 = {f"fp32 {name}": value for name, value in exact.items()}
    return {"set": labelled.name, **counts, **found, **fp32, "loss of mAP@10": loss}
