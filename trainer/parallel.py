"""The parallel text: sounds named in eight languages, and what a student of the English teacher learns from it.

The files in ``recipes/parallel`` are written for earshot: a column a language, a line a concept; in a cell several
phrasings, separated by `` | ``.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.cache import TextTable

LANGUAGES = ("eng", "fra", "deu", "spa", "nld", "cat", "jpn", "zho")
FOLDER = Path(__file__).parent / "recipes" / "parallel"

#: How a searcher dresses a plain name up; the meaning stays.
TEMPLATES = {
    "eng": ("{} sound", "sound of {}", "{} in the distance", "recording of {}"),
    "fra": ("bruit de {}", "son : {}", "{} au loin", "enregistrement de {}"),
    "deu": ("Geräusch: {}", "{} in der Ferne", "Aufnahme von {}", "Klang von {}"),
    "spa": ("sonido de {}", "ruido de {}", "{} a lo lejos", "grabación de {}"),
    "nld": ("geluid van {}", "{} in de verte", "opname van {}", "het geluid {}"),
    "cat": ("so de {}", "soroll de {}", "{} al lluny", "gravació de {}"),
    "jpn": ("{}の音", "遠くの{}", "{}の録音", "{}サウンド"),
    "zho": ("{}的声音", "远处的{}", "{}录音", "{}音效"),
}
AND = {
    "eng": "{} and {}",
    "fra": "{} et {}",
    "deu": "{} und {}",
    "spa": "{} y {}",
    "nld": "{} en {}",
    "cat": "{} i {}",
    "jpn": "{}と{}",
    "zho": "{}和{}",
}
PAIRS = 2  # of each concept with another


@dataclass(frozen=True, slots=True)
class Concept:
    """One sound: its phrasings in each language."""

    phrasings: dict[str, tuple[str, ...]]

    @property
    def english(self) -> tuple[str, ...]:
        """What the teacher reads."""
        return self.phrasings["eng"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text, and the English that means the same; its target is the mean of the teacher's vectors of these."""

    text: str
    language: str
    english: tuple[str, ...]


def read_parallel(folder: Path = FOLDER) -> list[Concept]:
    """All concepts and sentences, in order of file and line. Raises ``ValueError`` naming a line that is not whole."""
    return [concept for path in sorted(folder.glob("*.tsv")) for concept in _read_file(path)]


def _read_file(path: Path) -> list[Concept]:
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(header) != LANGUAGES:
        raise ValueError(f"{path.name}: found the columns {header}, expected {list(LANGUAGES)}")
    concepts = []
    for number, row in enumerate(rows, 2):
        cells = [tuple(part.strip() for part in cell.split(" | ")) for cell in row]
        if len(cells) != len(LANGUAGES) or not all(all(cell) for cell in cells):
            raise ValueError(f"{path.name}, line {number}: found {len(cells)} cells, expected 8 with text in each")
        concepts.append(Concept(dict(zip(LANGUAGES, cells, strict=True))))
    return concepts


def lessons(concepts: Sequence[Concept], seed: int = 11) -> list[Lesson]:
    """Phrasings as they are, dressed up, and joined in pairs: what the student reads and what the teacher does."""
    rng = random.Random(seed)
    found = []
    for concept in concepts:
        partners = rng.sample(concepts, PAIRS)
        for language, phrasings in concept.phrasings.items():
            found += [Lesson(text, language, concept.english) for text in phrasings]
            dressed = [template.format(phrasings[0]) for template in rng.sample(TEMPLATES[language], 2)]
            found += [Lesson(text, language, concept.english) for text in dressed]
            for partner in partners:
                text = AND[language].format(phrasings[0], partner.phrasings[language][0])
                found.append(Lesson(text, language, (AND["eng"].format(concept.english[0], partner.english[0]),)))
    return found


def translated_captions(path: Path) -> list[Lesson]:
    """The English-Japanese captions of ``audiocaps_eng_jpn.csv``."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [Lesson(row["jpn"], "jpn", (row["eng"],)) for row in csv.DictReader(stream) if row["jpn"] and row["eng"]]


def lesson_table(found: Sequence[Lesson], encode: Callable[[list[str]], NDArray[np.floating]]) -> TextTable:
    """Texts and their targets ``[n, 384]``, unit length. ``encode``: English texts -> ``[n, 384]``."""
    english = sorted({text for lesson in found for text in lesson.english})
    known = dict(zip(english, encode(english).astype(np.float32), strict=True))
    means = np.stack([np.mean([known[text] for text in lesson.english], axis=0) for lesson in found])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return TextTable([lesson.text for lesson in found], means.astype(np.float16))
