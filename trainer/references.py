"""What people would say of the sounds that captions are judged by, and which texts only echo that. No torch.

The references in ``recipes/captions`` were written for earshot before any captioner was trained, from the names of the
sounds, and are frozen: a test keeps their sha256. Whatever a captioner learns from or remembers is sifted against them.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.caption_metrics import grams, words
from trainer.data import Row, hold_out, training_rows

FOLDER = Path(__file__).parent / "recipes" / "captions"
#: Words in a row that are compared, and the share of a reference's that make a text its echo.
GRAM = 3
SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Referenced:
    """A clip, the kind of sound it is, and at least three captions of it in English."""

    path: Path
    kind: str
    captions: tuple[str, ...]


def held_references(rows: Iterable[Row]) -> list[Referenced]:
    """The train clips held out by source that have captions, to choose by. ``rows``: all of ``sounds.csv``."""
    known = dict(_read("references_held.tsv"))
    _, held = hold_out(training_rows(list(rows)))
    return [
        Referenced(row.path, row.text or row.label, known[row.label, row.text])
        for row in held
        if (row.label, row.text) in known
    ]


def dev_references(rows: Iterable[Row]) -> list[Referenced]:
    """The dev split, for a verdict. ``rows``: all of ``sounds.csv``."""
    known = dict(_read("references_dev.tsv"))
    return [Referenced(row.path, row.label, known[row.label,]) for row in rows if row.split == "dev"]


def reference_sentences() -> list[str]:
    """Every caption of every reference."""
    files = ("references_dev.tsv", "references_held.tsv")
    return [caption for name in files for _, captions in _read(name) for caption in captions]


def _read(name: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Each line: what it is about, and its captions."""
    with (FOLDER / name).open(encoding="utf-8", newline="") as stream:
        _, *rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(tuple(about), tuple(captions.split(" | "))) for *about, captions in rows]


class Echoes:
    """Finds the texts that say nearly what a reference says.

    A text echoes a reference if it has the same words but for articles, or at least ``SHARE`` of the reference's
    distinct runs of ``GRAM`` words, for references that have at least two such runs.
    """

    def __init__(self, references: Iterable[str]) -> None:
        self._whole: set[tuple[str, ...]] = set()
        self._holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._needed: list[float] = []
        for reference in references:
            told = words(reference)
            self._whole.add(_plain(told))
            runs = grams(told, GRAM)
            if len(runs) >= 2:
                for gram in runs:
                    self._holders[gram].append(len(self._needed))
                self._needed.append(SHARE * len(runs))

    def __contains__(self, text: str) -> bool:
        """Whether ``text`` echoes a reference."""
        told = words(text)
        if _plain(told) in self._whole:
            return True
        shared: dict[int, int] = defaultdict(int)
        for gram in grams(told, GRAM):
            for number in self._holders.get(gram, ()):
                shared[number] += 1
        return any(count >= self._needed[number] for number, count in shared.items())


def _plain(told: list[str]) -> tuple[str, ...]:
    return tuple(word for word in told if word not in ("a", "an", "the"))
