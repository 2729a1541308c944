"""The English that the text tower learns from: captions, names, and every plain word of the teacher's vocabulary.

Searchers type one to four words, captions have ten or more: so captions are also cut into short runs, and words
that no caption holds ("velcro") appear alone, in templates and in pairs.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Iterable
from pathlib import Path

from trainer.data import Row

TEMPLATES = (
    "sound of a {}",
    "the sound of {}",
    "{} sound",
    "{} noise",
    "a {} in the distance",
    "someone with a {}",
    "a person {}",
    "loud {}",
    "recording of {}",
    "{} close up",
)
MAX_CHARS = 160


def class_names(data: Path) -> list[str]:
    """The teacher's class names, in order of its outputs, quotes removed."""
    with (data / "teacher" / "classes.csv").open(newline="", encoding="utf-8") as stream:
        return [row["name"].strip().strip('"') for row in csv.DictReader(stream)]


def descriptions(data: Path) -> dict[str, str]:
    """Ontology name -> the first sentence of its description."""
    with (data / "text" / "audioset_ontology.csv").open(newline="", encoding="utf-8") as stream:
        return {row["name"]: row["description"].split(". ")[0] for row in csv.DictReader(stream)}


def corpus(data: Path, rows: Iterable[Row], words: Iterable[str], seed: int = 7) -> list[str]:
    """Distinct lower-case texts, in a fixed order. ``words`` are the plain words of the teacher's vocabulary."""
    rng = random.Random(seed)
    captions = _column(data / "text" / "audiocaps.csv", "caption")
    names = class_names(data) + [name for row in rows for name in (row.text, row.label) if name]
    described = [text for pair in descriptions(data).items() for text in pair]
    wavtext = _column(data / "text" / "wavtext5k.csv", "title") + _column(
        data / "text" / "wavtext5k.csv", "description"
    )
    told = captions + names + described + wavtext
    sound_words = sorted({word for text in told for word in re.findall(r"[a-z]{3,}", text.lower())})
    all_words = sorted(set(words) | set(sound_words))
    texts = told + [part for name in names for part in name.split(", ")]
    texts += [_run(rng, caption) for caption in captions]
    for word in all_words:
        texts += [word, *(template.format(word) for template in rng.sample(TEMPLATES, 2))]
    for word in sound_words:
        texts += [template.format(word) for template in rng.sample(TEMPLATES, 2)]
        texts += [f"{word} {rng.choice(sound_words)}" for _ in range(3)]
    texts += [f"{word} {rng.choice(sound_words)}" for word in all_words]
    texts += [f"{rng.choice(sound_words)} {word} {rng.choice(all_words)}" for word in all_words]
    return list(dict.fromkeys(text for raw in texts if (text := normal(raw))))


def normal(text: str) -> str:
    """Lower case, single spaces, cut at a length that no query reaches."""
    return " ".join(text.lower().split())[:MAX_CHARS]


def _column(path: Path, name: str) -> list[str]:
    with path.open(newline="", encoding="utf-8") as stream:
        return [row[name] for row in csv.DictReader(stream) if row[name]]


def _run(rng: random.Random, caption: str) -> str:
    """One to four neighbouring words of a caption."""
    words = re.findall(r"[A-Za-z']+", caption)
    length = rng.randint(1, 4)
    start = rng.randrange(max(1, len(words) - length + 1))
    return " ".join(words[start : start + length])
