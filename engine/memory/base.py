"""The Memory protocol: one collection of vectors in one space.

Every implementation passes the one suite in ``tests/contract``. ``exact.py`` is the oracle, ``edge.py`` the embedded
store; a served one lives in ``server.py``.

A payload is a flat mapping. Filters mean the same on every memory:

- ``<  <=  >  >=`` compare numbers; a point without the field does not match.
- ``=  !=`` compare whole values, text case-folded; a list matches when any element does; a missing field is ``!=``.
- ``~`` is a case-folded substring of text, of any element of a list.
- ``in``, ``not in`` take a sequence of exact texts (no folding: ids and hashes); a missing field is ``not in``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from engine.types import Filter, FloatArray, Hit, Payload, Point, Record

#: The filterable payload fields and their kinds; a memory indexes these.
FIELDS: dict[str, type] = {
    "sha256": str,
    "paths": str,
    "title": str,
    "artist": str,
    "description": str,
    "category": str,
    "format": str,
    "caption": str,
    "duration_s": float,
    "sample_rate_hz": float,
    "channels": float,
    "window": float,
}


class Memory(Protocol):
    """Vectors ``[dim]``, L2-normalised float32, with payloads; cosine everywhere."""

    def ensure_space(self, space_id: str, dim: int) -> None:
        """Create the collection for this space, or open it. Must come first.

        Raises ``SpaceMismatchError`` naming both spaces if it holds another one.
        """

    def upsert(self, points: Sequence[Point]) -> None:
        """Write points; those with a known id are replaced whole. Durable after ``flush``."""

    def delete(self, where: Filter) -> None:
        """Remove all points that match; an empty filter is refused with ``ValueError``."""

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """Set these payload keys on all points that match, leaving the other keys."""

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """The k points nearest to ``vector`` ``[dim]`` by cosine, best first, ties by id."""

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """``search`` once for each filter, answered together."""

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """All matching points, by id."""

    def count(self, where: Filter | None = None) -> int:
        """How many points match, exactly."""

    def optimise(self) -> None:
        """Build the indexes that make search fast; answers stay the same within its recall."""

    def flush(self) -> None:
        """Return only when all that was written is on disk."""

    def close(self) -> None:
        """Flush and release; the memory can't be used afterwards."""


def chunks(points: Iterable[Point], size: int) -> Iterator[list[Point]]:
    """Lists of at most ``size`` points, in order."""
    batch: list[Point] = []
    for point in points:
        batch.append(point)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
