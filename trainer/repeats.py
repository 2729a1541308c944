"""Sounds that are the same, byte for byte, on two splits: what was learnt would be asked. Never imports torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.errors import AudioError
from trainer.examples import Example


def apart(asked: Sequence[Example], others: Sequence[Example]) -> tuple[list[Example], list[Example], int]:
    """Clips to ask about, and the ``others`` that are none of these; how many of those asked are on two splits.

    A clip is asked about once, on the first of the splits it is on, however many folds are asked.
    """
    hashes = _contents([*asked, *others])
    first: dict[str, str] = {}
    kept, twice = [], set()
    for example, sha in zip(asked, hashes, strict=False):
        if sha is None or first.setdefault(sha, example.split) == example.split:
            kept.append(example)
        else:
            twice.add(sha)
    rest = []
    for example, sha in zip(others, hashes[len(asked) :], strict=True):
        if sha is None or sha not in first:
            rest.append(example)
        else:
            twice.add(sha)
    return kept, rest, len(twice)


def _contents(examples: Sequence[Example]) -> list[str | None]:
    """Each sound's sha256; None where it is as long as no other, and so is none, or can't be read."""
    sizes = [_size(example) for example in examples]
    count = Counter(sizes)
    return [
        _sha256(example) if size is not None and count[size] > 1 else None
        for example, size in zip(examples, sizes, strict=True)
    ]


def _size(example: Example) -> int | None:
    if example.span is not None:
        return example.span[1]
    try:
        return example.audio.stat().st_size
    except OSError:  # whoever hears it says so
        return None


def _sha256(example: Example) -> str | None:
    try:
        return example.content_sha256()
    except AudioError:
        return None
