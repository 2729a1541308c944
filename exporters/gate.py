"""What does a smaller precision lose? Asked on labelled sounds, as a search would ask them.

A labelled set is a CSV or TSV file with the columns ``path`` (relative to the file) and ``text``. Each text is asked
for once; right are all sounds that have it; a sound counts by its best window. ``mAP@10`` is the mean over the texts of

    (sum over ranks r <= 10 with a right sound of: right sounds up to r / r) / min(10, right sounds there are).

The same answers calibrate relevance: of words, and of sounds where several have the same text.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle, Calibration
from engine.encoders import OnnxEncoders, thinned
from engine.errors import BundleError
from engine.types import FloatArray
from exporters.asking import best_windows, hear, similar
from exporters.calibration import fit_curve

DEPTH = 10
#: A smaller precision may lose so much mAP@10, one point of a hundred.
MOST_LOSS = 0.01
#: With fewer queries that have an answer no curve of relevance is fitted.
FEWEST = 10


class GateError(BundleError):
    """A labelled set that can't be used, or a precision that loses too much on it."""


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Sounds with the text that each answers, pair by pair."""

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


@dataclass(frozen=True, slots=True)
class Answers:
    """What a bundle says of a labelled set, in cosines: of words ``[texts, sounds]``, of sounds ``[sounds, sounds]``.

    ``right [texts, sounds]`` and ``alike [sounds, sounds]`` say what belongs together; no sound belongs to itself.
    """

    words: FloatArray
    sounds: FloatArray
    right: NDArray[np.bool_]
    alike: NDArray[np.bool_]

    @property
    def scores(self) -> dict[str, float]:
        """``R@1`` and ``mAP@10``, 0..1: texts asked, sounds found."""
        return ranked(self.words, self.right.tolist())


def ask(bundle: Bundle, labelled: LabelledSet) -> Answers:
    """Hear the sounds, ask for each by its text and by the others. Raises ``AudioError``, ``BundleError``."""
    encoders = OnnxEncoders(bundle, "cpu")
    asked, paths = sorted(set(labelled.texts)), list(dict.fromkeys(labelled.paths))  # a sound may have several texts
    right = np.zeros((len(asked), len(paths)), bool)
    for path, text in zip(labelled.paths, labelled.texts, strict=True):
        right[asked.index(text), paths.index(path)] = True
    heard = hear(encoders, paths)
    words = best_windows(np.concatenate([encoders.text.encode_text([one]) for one in asked]), heard)
    sounds = similar([thinned(vectors) for vectors in heard], heard)
    return Answers(words, sounds, right, (right.T @ right) & ~np.eye(len(paths), dtype=bool))


def ranked(cosines: FloatArray, right: Sequence[Sequence[bool]]) -> dict[str, float]:
    """``R@1`` and ``mAP@10`` of cosines ``[texts, sounds]``; of equal ones the earlier sound comes first."""
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
    hits = np.take_along_axis(np.asarray(right), order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    most = np.minimum(DEPTH, np.asarray(right).sum(1))
    return {"R@1": float(hits[:, 0].mean()), "mAP@10": float(((precision * hits).sum(1) / most).mean())}


def judge(bundle: Bundle, labelled: LabelledSet, exact: Mapping[str, float] | None) -> dict[str, Any]:
    """What the manifest says after a labelled set: ``retrieval_loss``, ``calibrated``, and ``calibration`` so far.

    ``exact``: the scores in fp32, for a smaller precision. Raises ``GateError`` where it loses more than ``MOST_LOSS``.
    """
    answers = ask(bundle, labelled)
    curves, said = calibrated(answers)
    return {
        "retrieval_loss": compare(exact or answers.scores, answers.scores, labelled),
        "calibration": {kind: asdict(curve) for kind, curve in curves.items()},
        "calibrated": {"set": labelled.name, **said},
    }


def calibrated(answers: Answers) -> tuple[dict[str, Calibration], dict[str, Any]]:
    """The curves that a set is large enough for, and what they do."""
    unlike = ~answers.alike & ~np.eye(len(answers.alike), dtype=bool)
    curves: dict[str, Calibration] = {}
    said: dict[str, Any] = {}
    for kind, cosines, wanted, unwanted in (
        ("text", answers.words, answers.right, ~answers.right),
        ("audio", answers.sounds, answers.alike, unlike),
    ):
        if (count := int(wanted.any(1).sum())) < FEWEST:
            said[kind] = f"not measured: {count} queries, at least {FEWEST} needed"
            continue
        found = fit_curve(cosines, wanted, unwanted, seed=0, first_answer=kind == "text")
        if found.curve.slope <= 0 or found.false_answers >= found.recall:
            said[kind] = "not measured: the best right answers score no better than the best wrong ones"
            continue
        curves[kind] = found.curve
        said |= {f"{kind} recall": found.recall, f"{kind} false answers": found.false_answers}
    return curves, said


def compare(exact: Mapping[str, float], found: Mapping[str, float], labelled: LabelledSet) -> dict[str, Any]:
    """What the manifest says of a precision. Raises ``GateError`` where it loses more than ``MOST_LOSS``."""
    loss = exact["mAP@10"] - found["mAP@10"]
    if loss > MOST_LOSS:
        raise GateError(
            f"mAP@10 of {found['mAP@10']:.3f} on {labelled.name}, {exact['mAP@10']:.3f} in fp32",
            f"a loss of at most {MOST_LOSS}",
            "export it in fp16 or fp32",
        )
    counts = {"sounds": len(set(labelled.paths)), "texts": len(set(labelled.texts))}
    fp32 = {f"fp32 {name}": value for name, value in exact.items()}
    return {"set": labelled.name, **counts, **found, **fp32, "loss of mAP@10": loss}
