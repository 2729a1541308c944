"""The training sounds: which rows may be learnt from, what their words say, and who is held out.

The data set is read where it lies and never copied; ``sounds.csv`` describes it, one clip a row.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from engine.audio import naming, read_samples
from engine.errors import EarshotError
from engine.types import FloatArray
from engine.windows import pad_to

#: A model that ships may learn only from these.
SHIPPABLE = frozenset({"CC0", "CC-BY", "MIT", "BSD", "Apache-2.0", "PD"})
#: One source with more clips than this stays in training: held out, it alone would be the verdict.
LARGEST_HELD_OUT_SOURCE = 40
HELD_OUT_SHARE = 0.2
#: About 1,500 clips to choose designs by, those held out of everything among them. What ships learns from the rest.
LARGEST_CHOICE_SOURCE = 150
CHOICE_SHARE = 0.55

# Credits, take numbers and words of file names that name no sound.
_NOISE_WORDS = frozenset(
    """misc sfx fx snd wav ogg mp3 loop loops sample sound sounds mono stereo clipped edit edited final new old take
    bd sd hh v1 v2 v3 x xx kenney freesound obj objects structures plmove t""".split()  # noqa: SIM905
)


class DataMissingError(EarshotError):
    """The training data is not where it was said to be."""


@dataclass(frozen=True, slots=True)
class Row:
    """One clip of ``sounds.csv``; ``text`` is cleaned, ``path`` absolute, ``seconds`` the clip's length."""

    path: Path
    split: str
    dataset: str
    label: str
    text: str
    licence: str
    source: str
    seconds: float


def read_rows(data: Path) -> list[Row]:
    """All rows of ``data/sounds.csv``. Raises ``DataMissingError`` where it isn't."""
    table = data / "sounds.csv"
    if not table.is_file():
        raise DataMissingError(f"no {table}", "the folder of training data", "pass it as --data")
    with table.open(newline="", encoding="utf-8") as stream:
        return [
            Row(
                path=data / raw["path"],
                split=raw["split"],
                dataset=raw["dataset"],
                label=raw["label"],
                text=clean_text(raw["text"] or raw["label"]),
                licence=raw["licence"],
                source=raw["source"] or raw["dataset"],
                seconds=float(raw["seconds"]),
            )
            for raw in csv.DictReader(stream)
        ]


def training_rows(rows: list[Row]) -> list[Row]:
    """The rows that a model that ships may learn from: split ``train`` and an open licence."""
    return [row for row in rows if row.split == "train" and row.licence in SHIPPABLE]


def hold_out(
    rows: list[Row], share: float = HELD_OUT_SHARE, largest: int = LARGEST_HELD_OUT_SOURCE
) -> tuple[list[Row], list[Row]]:
    """Split into (learn, held out) so that no source is on both sides.

    A source goes by the hash of its name: the split stays when rows are added or reordered, and what a smaller
    ``share`` and a smaller ``largest`` source hold out, larger ones do too.
    """
    size = Counter(row.source for row in rows)
    learn: list[Row] = []
    held: list[Row] = []
    for row in rows:
        chance = int.from_bytes(hashlib.sha256(row.source.encode()).digest()[:4], "big") / 2**32
        (held if chance < share and size[row.source] <= largest else learn).append(row)
    return learn, held


def clean_text(text: str) -> str:
    """File names and labels -> words: no underscores, camel case, numbers, file words.

    >>> clean_text("plmove/walk_t_grassLong 03")
    'walk grass long'
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = re.sub(r"[_/\\\-–.]+", " ", text)
    text = re.sub(r"\b\w*\d\w*\b", " ", text)
    words = re.sub(r"[^\w\s',]", " ", text).split()
    kept = [word for word in words if word.lower().strip(",") not in _NOISE_WORDS]
    return " ".join(kept).strip(" ,").lower()


def decode(row: Row, sample_rate_hz: int, at_least: int) -> FloatArray:
    """A clip's samples ``[n]``, n >= ``at_least`` (repeated if shorter), as the engine would hear them."""
    with naming(row.path):
        samples = read_samples(row.path, sample_rate_hz)
    return samples if len(samples) >= at_least else pad_to(samples, at_least, "repeat")
