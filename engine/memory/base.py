"""The Memory protocol: one collection of vectors in one space.

Every implementation passes the one suite in ``tests/contract``. ``exact.py`` is the oracle, ``edge.py`` the embedded
store; a served one lives in ``server.py``.

A payload is a flat mapping: keys of lower-case letters, digits and ``_``, values text, numbers, booleans or lists of
these. ``None`` is no value: written by ``upsert`` it leaves no key, by ``set_payload`` it removes the key.

Filters mean the same on every memory; ``matching.py`` says it in plain Python:

- ``<  <=  >  >=`` compare numbers; a point without the field does not match.
- ``=  !=`` compare whole values, text folded; a list is ``=`` when any element is, and ``!=`` when none is; a missing
  field is ``!=``.
- ``~`` is a substring of text, both folded; of any element of a list.
- ``in``, ``not in`` take a sequence of exact texts (no folding: ids and hashes); a missing field is ``not in``.

Folding is `fold`: case and the two Unicode spellings of accents make no difference. ``IDENTIFIERS`` are never folded.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from engine.types import Filter, FloatArray, Hit, Payload, Point, Record

#: The filterable payload fields and their kinds; a memory indexes these.
FIELDS: dict[str, type] = {
    "sha256": str,
    "paths": str,
    "title": str,
    "artist": str,
    "description": str,
    "category": str,
    "words": str,
    "format": str,
    "caption": str,
    "duration_s": float,
    "sample_rate_hz": float,
    "channels": float,
    "window": float,
    "silent": float,
}

#: Those of the captions that are remembered, which lie in a collection of their own; see ``captions.py``.
CAPTION_FIELDS: dict[str, type] = {"sha256": str, "language": str, "source": str}

#: Who holds a point of a memory that many indexers write to: ids, their paths, and a hash of both; see
#: ``indexer/holding.py``. Not for users.
HOLDERS, PLACES, HELD = "holders", "places", "held"

#: Fields compared byte for byte by every operator.
IDENTIFIERS = frozenset({"sha256", HOLDERS, PLACES, HELD})


class Memory(Protocol):
    """Vectors ``[dim]``, L2-normalised float32, with payloads; cosine everywhere.

    Point ids are lower-case UUID texts. A vector of another shape, or with NaN or infinity, is refused with
    ``MemoryStoreError``, and so are an id or a payload that can't be stored; a filter that makes no sense with
    ``QueryError``. Before ``ensure_space`` and after ``close`` every other call raises ``MemoryStoreError``.
    Methods may be called from several threads.
    """

    @property
    def shared(self) -> bool:
        """Whether somebody else may be writing to it, so that it may hold more than the ledger here knows."""

    def ensure_space(self, space_id: str, dim: int) -> None:
        """Create the collection for this space, or open it. Must come first; again with the same space is fine.

        Raises ``SpaceMismatchError`` naming both spaces if it holds another one, ``LibraryBusyError`` if another
        process holds it, ``MemoryStoreError`` if it can't be read.
        """

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; those with a known id are replaced whole, and of one id twice the last stays.

        All are checked before any is written. Durable after ``flush``.
        """

    def delete(self, where: Filter) -> None:
        """Remove all points that match; an empty filter is refused with ``ValueError``."""

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """Set these payload keys on all points that match, leaving the other keys."""

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """The k points nearest to ``vector`` ``[dim]`` by cosine, best first, ties by id.

        Fewer than k where fewer match. Raises ``ValueError`` for a negative k, ``QueryError`` above a million.
        """

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """``search`` once for each filter, answered together."""

    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """As ``search``, each with its own vector ``[dim]``, asked for once."""

    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """The k points whose documents say most of ``words``, by BM25, best first, ties by id.

        See ``keywords.py``; a document that has none of the words is none of them. Raises as ``search`` does.
        """

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """All matching points, by id, in bounded memory."""

    def count(self, where: Filter | None = None) -> int:
        """How many points match, exactly."""

    def optimise(self) -> None:
        """Build the indexes that make search fast; answers stay the same within its recall."""

    def flush(self) -> None:
        """Return only when all that was written is on disk."""

    def close(self) -> None:
        """Flush and release; the memory can't be used afterwards. Closing twice is fine."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class CommonMemory(Memory, Protocol):
    """A memory to which several indexers may write at once."""

    def insert(self, points: Sequence[Point]) -> None:
        """As ``upsert``, but a point whose id is known stays as it is, also if somebody writes it at this moment."""


@runtime_checkable
class Patient(Protocol):
    """A memory that waits for its store while that is away."""

    def until(self, given_up: Callable[[], bool]) -> AbstractContextManager[None]:
        """Inside, ``KeyboardInterrupt`` ends a wait as soon as ``given_up`` says that nobody waits any more."""


def fold(text: str) -> str:
    """Text as filters compare it: Unicode's canonical caseless form, composed.

    "STRASSE" meets "straße", and a name that macOS wrote decomposed meets the one typed composed (Unicode Standard,
    section 3.13, D145).
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
