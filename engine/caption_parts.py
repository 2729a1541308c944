"""What both captioners ask and tell: of a memory, in a language, as sure as a curve says."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from engine.bundle import Calibration
from engine.encoders import Encoders, normalise
from engine.errors import QueryError, SpaceMismatchError
from engine.eventless import Wordings
from engine.memory.captions import Said
from engine.projection import EVIDENCE
from engine.types import Caption, FloatArray, Remembered

#: How captions are chosen; another number than the last earshot's has them said again.
WAY = 3
#: Of captions that are not read whole, so many tell whether they are still the same ones.
SAMPLED = 1024
#: Captions that are read again, and the least cosine with what is remembered of them: more by far than another graph of
#: the same tower moves them, and less than any other tower has in common.
READ_AGAIN, _SAME = 4, 0.9
#: The language of captions of which nobody named one; they fit any.
UNNAMED = ("", "und")


class Remembering(Protocol):
    """Captions remembered in the space of the sounds; generated ones are none of them."""

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        """The k nearest to ``vector [dim]``, best first."""

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        """Unit vectors ``[n, dim]`` and what they say, at most ``limit``."""

    def count(self) -> int:
        """How many there are."""


class Meaning(Protocol):
    """Something said, with its vector ``[dim]``."""

    @property
    def vector(self) -> FloatArray:
        """Of length one."""


_Meaning = TypeVar("_Meaning", bound=Meaning)


def units(vectors: FloatArray, dim: int) -> FloatArray:
    """Vectors of sounds ``[n, dim]`` at length one. Raises ``QueryError`` for what isn't, or can't be."""
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise QueryError(f"vectors {list(vectors.shape)}", f"[n, {dim}]", "use this bundle's own vectors")
    if not np.isfinite(vectors).all():
        raise QueryError("vectors with NaN or infinity", "unit vectors", "encode the sounds again")
    if not vectors.any(axis=1).all():
        raise QueryError("a vector of zeros", "unit vectors", "encode the sounds again")
    return normalise(vectors)


def telling(captions: list[_Meaning], wordings: Wordings) -> list[_Meaning]:
    """Of captions with a vector those that say that there is something to hear."""
    if not captions:
        return captions
    nothing = wordings.say_nothing(np.stack([one.vector for one in captions]))
    return [one for one, empty in zip(captions, nothing, strict=True) if not empty]


def believed(text: str, cosine: float, curve: Calibration, language: str, evidence: tuple[Remembered, ...]) -> Caption:
    """A caption as sure as a curve makes of its cosine with the sound."""
    score = curve.relevance(cosine)
    return Caption(text, score, language, evidence, unsure=score < curve.cutoff)


def languages_told(language: str, known: set[str]) -> tuple[str, ...]:
    """Of the languages of what is remembered those that evidence is told in: the caption's, else English, else any."""
    for told in ((language, *UNNAMED), ("eng",)):
        if not known.isdisjoint(told):
            return told
    return tuple(known)


def told_in(language: str, near: Sequence[Remembered]) -> tuple[Remembered, ...]:
    """The first few of the nearest captions, best first, that are told as evidence for a caption in a language."""
    told = languages_told(language, {one.language for one in near})
    return tuple([one for one in near if one.language in told][:EVIDENCE])


def require_same_space(vectors: FloatArray, said: Sequence[Said], encoders: Encoders) -> None:
    """Raise ``SpaceMismatchError`` if captions are remembered in another space, even one of as many numbers.

    Not every memory has a name that would tell: the first and the last, which may be a library's and a bundle's, are
    read again, and must lie where they are remembered.
    """
    if not said:
        return
    space, again = encoders.space, "remember them again with this bundle"
    if vectors.shape[1] != space.dim:
        found = f"captions remembered in another space, {vectors.shape[1]} numbers each"
        raise SpaceMismatchError(found, f"{space.dim}, those of {space.space_id}", again)
    rows = sorted({*range(len(said))[:READ_AGAIN], *range(len(said))[-READ_AGAIN:]})
    read = encoders.text.encode_text([said[row].text for row in rows])
    alike = float(np.median((vectors[rows] * read).sum(axis=1)))
    if not alike >= _SAME:
        found = f"captions remembered in another space, at a cosine of {alike:.2f} with their words in {space.space_id}"
        raise SpaceMismatchError(found, f"{_SAME} or more", again)


def digest(how: tuple[object, ...], count: int, upon: Sequence[Said]) -> str:
    """A hash of how something is said, and of the ``count`` captions it builds upon, by those that are looked at."""
    found = hashlib.sha256(repr((how, count)).encode())
    for key in sorted(one.key for one in upon):
        found.update(key.encode())
    return found.hexdigest()[:12]
