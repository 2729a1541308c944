"""The parallel text: sounds named in eight languages, and what a student of the English teacher learns from it.

The files in ``recipes/parallel`` are written for earshot: a column a language, a line a concept; in a cell several
phrasings, separated by `` | ``. Those in ``recipes/vocabulary`` make many more texts of few words: ``words_*.tsv`` are
concepts that are no sounds, ``doing.tsv`` is what can be done with ``things.tsv`` (where their tags meet), and
``where.tsv`` is what can be said of any sound.
"""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.cache import TextTable

LANGUAGES = ("eng", "fra", "deu", "spa", "nld", "cat", "jpn", "zho")
FOLDER = Path(__file__).parent / "recipes" / "parallel"
VOCABULARY = Path(__file__).parent / "recipes" / "vocabulary"

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
#: What becomes of ``de`` before an article or a vowel, and of ``y`` before its own sound; an ``h`` is left alone in
#: French, where some are aspirate, and an ``i`` before a vowel in Spanish and Catalan, where it is a consonant.
CONTRACTED = {
    "fra": ((r"\bde le ", "du "), (r"\bde les ", "des "), (r"\bde (?=[aeiouâàéèêîôûœ])", "d'")),
    "spa": ((r"\bde el ", "del "), (r"\by (?=h?[ií](?![aeou]))", "e ")),
    "cat": (
        (r"\bde el ", "del "),
        (r"\bde els ", "dels "),
        (r"\bde (?!h?i[aeou])(?=[aeiouàèéíòóúh])", "d'"),
    ),
}
#: How German is typed where the keys for its own letters are missing.
TRANSLITERATED = {"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"}
PAIRS = 3  # of each concept with another
PLACES = 4  # of each short concept, from where.tsv
LONGEST_PLACED = 4  # English words: sentences say where they are
SHORTEST_TYPO = 6  # letters that a text needs before one of them is mistyped
#: How often a language comes up, against 1: the two that share no pieces with the others need more practice.
PRACTICE = {"jpn": 1.5, "zho": 1.5}
#: The same for phrasings as they stand, by how far each language still was from the teacher: those that share pieces
#: with English read them as English.
PHRASING_PRACTICE = {"eng": 1.0, "jpn": 0.7, "zho": 0.7, "fra": 1.7, "cat": 1.7, "deu": 1.5, "spa": 1.5, "nld": 1.5}


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


def read_parallel(folder: Path = FOLDER, pattern: str = "*.tsv") -> list[Concept]:
    """Concepts and sentences, in order of file and line; ``events_*.tsv`` are the teacher's classes in its order.

    Raises ``ValueError`` naming a line that is not whole.
    """
    return [concept for path in sorted(folder.glob(pattern)) for concept in _read_file(path)]


def read_words() -> list[Concept]:
    """The concepts that are no sounds."""
    return read_parallel(VOCABULARY, "words_*.tsv")


def _read_rows(path: Path, columns: tuple[str, ...]) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(header) != columns:
        raise ValueError(f"{path.name}: found the columns {header}, expected {list(columns)}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(columns) or not all(row):
            raise ValueError(
                f"{path.name}, line {number}: found {row}, expected {len(columns)} cells with text in each"
            )
    return rows


def _read_file(path: Path) -> list[Concept]:
    concepts = []
    for number, row in enumerate(_read_rows(path, LANGUAGES), 2):
        cells = [tuple(part.strip() for part in cell.split(" | ")) for cell in row]
        if not all(all(cell) for cell in cells):
            raise ValueError(f"{path.name}, line {number}: found an empty phrasing, expected text in each")
        concepts.append(Concept(dict(zip(LANGUAGES, cells, strict=True))))
    return concepts


def contracted(text: str, language: str) -> str:
    """``bruit de aboiement`` as it is written, ``bruit d'aboiement``: a pattern doesn't know what it is filled with."""
    for pattern, written in CONTRACTED.get(language, ()):
        text = re.sub(pattern, written, text)
    return text


def lessons(concepts: Sequence[Concept], seed: int = 11) -> list[Lesson]:
    """Phrasings as they are, dressed up, and joined in pairs: what the student reads and what the teacher does.

    A name means what the English name does, other phrasings what all the English ones do on the average.
    """
    rng = random.Random(seed)
    found = []
    for concept in concepts:
        partners = rng.sample(concepts, PAIRS)
        for language, (name, *others) in concept.phrasings.items():
            dressed = [contracted(one.format(name), language) for one in rng.sample(TEMPLATES[language], 2)]
            found += [Lesson(text, language, concept.english[:1]) for text in (name, *dressed)]
            found += [Lesson(text, language, concept.english) for text in others]
            for partner in partners:
                text = contracted(AND[language].format(name, partner.phrasings[language][0]), language)
                found.append(Lesson(text, language, (AND["eng"].format(concept.english[0], partner.english[0]),)))
    return found


def composed(concepts: Sequence[Concept], folder: Path = VOCABULARY, seed: int = 12) -> list[Lesson]:
    """All that can be done with all things, and short ``concepts`` at some places each. Raises ``ValueError``."""
    rng = random.Random(seed)
    pairs = _done_with_things(folder)
    places = _read_rows(folder / "where.tsv", LANGUAGES)
    pairs += [
        (patterns, [concept.phrasings[language][0] for language in LANGUAGES])
        for concept in concepts
        if len(concept.english[0].split()) <= LONGEST_PLACED
        for patterns in rng.sample(places, PLACES)
    ]
    found = []
    for patterns, texts in pairs:
        filled = [pattern.format(text) for pattern, text in zip(patterns, texts, strict=True)]
        told = [contracted(text, language) for text, language in zip(filled, LANGUAGES, strict=True)]
        found += [Lesson(text, language, (told[0],)) for language, text in zip(LANGUAGES, told, strict=True)]
    return found


def done_with_things(folder: Path = VOCABULARY) -> list[str]:
    """All that can be done with all things, in English. Raises ``ValueError``."""
    return [patterns[0].format(texts[0]) for patterns, texts in _done_with_things(folder)]


def _done_with_things(folder: Path) -> list[tuple[list[str], list[str]]]:
    """What is done, as patterns, and what with, as texts, in each language."""
    things = [(set(tags.split()), texts) for tags, *texts in _read_rows(folder / "things.tsv", ("tags", *LANGUAGES))]
    doing = _read_rows(folder / "doing.tsv", ("takes", *LANGUAGES))
    return [(patterns, texts) for takes, *patterns in doing for tags, texts in things if takes in tags]


def mistyped(concepts: Sequence[Concept], seed: int = 13) -> list[Lesson]:
    """Names typed in haste: two letters swapped, one left out, ``ue`` for ``ü``, two languages in one breath."""
    rng = random.Random(seed)
    found = []
    for concept in concepts:
        for language in LANGUAGES[:6]:
            text = concept.phrasings[language][0]
            if len(text) >= SHORTEST_TYPO:
                place = rng.randrange(1, len(text) - 1)
                middle = text[place + 1] + text[place] if rng.random() < 0.5 else text[place + 1]
                found.append(Lesson(text[:place] + middle + text[place + 2 :], language, concept.english[:1]))
        for number, text in enumerate(concept.phrasings["deu"]):
            if (typed := text.translate(str.maketrans(TRANSLITERATED))) != text:
                found.append(Lesson(typed, "deu", concept.english if number else concept.english[:1]))
        one, other = rng.sample(LANGUAGES, 2)
        mixed = f"{concept.phrasings[one][0]} {concept.phrasings[other][0]}"
        found.append(Lesson(mixed, other, concept.english[:1]))
    return found


def practice(found: Sequence[Lesson], often: Mapping[str, float] = PRACTICE) -> NDArray[np.float64]:
    """How often each lesson comes up, ``[n]``, summing to one: languages by ``often``, within one all alike."""
    counts = Counter(lesson.language for lesson in found)
    weights = np.array([often.get(lesson.language, 1.0) / counts[lesson.language] for lesson in found])
    return np.asarray(weights / weights.sum(), np.float64)


def phrasing_practice(found: Sequence[Lesson], concepts: Sequence[Concept]) -> NDArray[np.float64]:
    """The same for the phrasings of ``concepts`` as they stand, neither dressed up nor joined nor mistyped."""
    plain = {(text, lang) for concept in concepts for lang, texts in concept.phrasings.items() for text in texts}
    kept = np.array([(lesson.text, lesson.language) in plain for lesson in found])
    weights = np.zeros(len(found))
    weights[kept] = practice([lesson for lesson, yes in zip(found, kept, strict=True) if yes], PHRASING_PRACTICE)
    return weights


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
