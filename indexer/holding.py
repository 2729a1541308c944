"""A memory that several indexers fill, as one of them sees it.

Two machines that hear the same content make the same points, so the points of a common memory belong to whoever holds
their content. Each point says so: ``places`` lists every holder's paths as ``indexer:path``, ``holders`` the indexers,
and ``held`` is a hash of the places. ``paths``, which users see and filter by, is what all holders together call it.

An indexer counts, reads, renames and removes its own; what it no longer holds stays while another does. Nothing is
locked, and yet nobody undoes what another wrote: new points only fill gaps (``CommonMemory.insert``), and a change is
written only where ``held`` is still what was read, then looked at again. What is left wrong all the same, as by a kill
between two writes, shows in the indexer's own count, and its next run puts it right (``indexer/tidy.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from types import TracebackType
from typing import Any, Self

from engine.errors import MemoryStoreError
from engine.memory.base import HELD, HOLDERS, PLACES, CommonMemory, Patient
from engine.types import Clause, Filter, FloatArray, Hit, Payload, Point, Record
from indexer.paths import text_path
from indexer.payload import of_contents, places_payload

_BOOKKEEPING = {HOLDERS, PLACES, HELD}
#: What differs from window to window of a content; all else in a payload is the same.
_OF_WINDOWS = {"window", "start_s", "end_s"}
_CONTENTS_AT_ONCE = 256
#: Others may change the same content between our reading and our writing; so often in a row they don't.
_TRIES = 20


class Holding:
    """The ``Memory`` of one ``indexer``, an id without colon, in a common one.

    It shows its own points, with its own paths, but searches all. ``upsert`` and ``set_payload`` want what the writing
    path gives: points of contents, with ``sha256`` and ``paths``. ``shared`` says whether another process of the same
    indexer may be writing.
    """

    def __init__(self, memory: CommonMemory, indexer: str, shared: bool = False) -> None:
        self.shared = shared
        self._memory, self._indexer = memory, indexer
        self._written: dict[str, Payload] = {}

    def ensure_space(self, space_id: str, dim: int) -> None:
        """See ``Memory.ensure_space``."""
        self._memory.ensure_space(space_id, dim)

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``Memory.upsert``; but points that another holder wrote stay, and become ours too by ``flush``."""
        self._memory.insert(
            [Point(p.id, p.vector, {**p.payload, **self._held(_sha256(p), self._places(p.payload))}) for p in points]
        )
        self._written.update({_sha256(point): point.payload for point in points})

    def delete(self, where: Filter) -> None:
        """See ``Memory.delete``; points that another holds too stay, and are not ours any more."""
        if not where:
            raise ValueError("an empty filter would delete everything")
        for sha256 in _contents(where):
            self._written.pop(sha256, None)
        for _ in range(_TRIES):
            states = self._states(self._own(where))
            if not states:
                return
            alone = [held for (_, held), places in states.items() if not self._others(places)]
            for first in range(0, len(alone), _CONTENTS_AT_ONCE):
                some = tuple(alone[first : first + _CONTENTS_AT_ONCE])
                self._memory.delete(where.also(Clause(HELD, "in", some)))
            for (sha256, held), places in states.items():
                if others := self._others(places):
                    self._memory.set_payload(where.also(Clause(HELD, "=", held)), self._merged(sha256, {}, others))
        raise _contended(f"deleting where {where}")

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """See ``Memory.set_payload``; ``paths`` are ours, and come beside those of other holders."""
        contents = _contents(where)
        if "paths" not in payload or not contents:
            self._memory.set_payload(where, payload)  # what is true of a content is so for all
            self._written.update({c: {**self._written[c], **payload} for c in contents if c in self._written})
            return
        self._settle({sha256: {**self._written.pop(sha256, {}), **payload} for sha256 in contents}, set())

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search``: among the points of all."""
        return self.search_many(vector, k, [where or Filter()])[0]

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``: among the points of all."""
        found = self._memory.search_many(vector, k, wheres)
        return [[Hit(hit.id, hit.score, _plain(hit.payload)) for hit in hits] for hits in found]

    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """See ``Memory.search_vectors``: among the points of all."""
        found = self._memory.search_vectors(vector, k, where)
        return [(Hit(hit.id, hit.score, _plain(hit.payload)), one) for hit, one in found]

    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search_words``: among the points of all."""
        return [Hit(hit.id, hit.score, _plain(hit.payload)) for hit in self._memory.search_words(words, k, where)]

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """See ``Memory.scroll``: our own, with our paths."""
        for record in self._memory.scroll(self._own(where), with_vectors):
            payload = {**_plain(record.payload), "paths": self._paths(record.payload[PLACES])}
            yield Record(record.id, payload, record.vector)

    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``: our own."""
        return self._memory.count(self._own(where))

    def whole(self, sha256: str) -> tuple[int, float] | None:
        """How many windows a content has and how long it lasts, if somebody has heard all of it; otherwise None."""
        first = next(self._memory.scroll(of_contents(sha256).also(Clause("window", "=", 0))), None)
        if first is None or "windows" not in first.payload or "duration_s" not in first.payload:
            return None
        windows = int(first.payload["windows"])
        is_whole = self._memory.count(of_contents(sha256)) == windows
        return (windows, float(first.payload["duration_s"])) if is_whole else None

    def optimise(self) -> None:
        """See ``Memory.optimise``."""
        self._memory.optimise()

    def flush(self) -> None:
        """See ``Memory.flush``. From here on all that was written is ours, whoever else wrote it at the same time."""
        written, self._written = iter(self._written.items()), {}
        while some := dict(islice(written, _CONTENTS_AT_ONCE)):
            inserted = {str(self._held(sha256, self._places(payload))[HELD]) for sha256, payload in some.items()}
            self._settle(some, inserted)
        self._memory.flush()

    def close(self) -> None:
        """See ``Memory.close``."""
        self._memory.close()

    def until(self, given_up: Callable[[], bool]) -> AbstractContextManager[None]:
        """See ``Patient.until``."""
        return self._memory.until(given_up) if isinstance(self._memory, Patient) else nullcontext()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, wanted: Mapping[str, Payload], right: set[str]) -> None:
        """See to it that all points of these contents are ours by just the ``paths`` of these payloads.

        ``right`` are values of ``held`` known to say so.
        """
        for _ in range(_TRIES):
            news = [Clause(HELD, "not in", tuple(sorted(right)))] if right else []
            states = self._states(of_contents(*wanted).also(*news))
            wrong = {
                (sha256, held): places
                for (sha256, held), places in states.items()
                if self._paths(places) != list(wanted[sha256]["paths"])
            }
            if not wrong:
                return
            for (sha256, held), places in wrong.items():
                payload = self._merged(sha256, wanted[sha256], self._others(places))
                right.add(payload[HELD])
                self._memory.set_payload(of_contents(sha256).also(Clause(HELD, "=", held)), payload)
        raise _contended(f"writing the paths of {len(wanted)} contents")

    def _states(self, where: Filter) -> dict[tuple[str, str], Sequence[str]]:
        """Contents with their ``held`` -> their places; a content in two states has two."""
        return {
            (str(record.payload["sha256"]), str(record.payload.get(HELD, ""))): record.payload.get(PLACES, [])
            for record in self._memory.scroll(where)
        }

    def _merged(self, sha256: str, payload: Payload, others: Sequence[str]) -> dict[str, Any]:
        """What all points of a content are to say: ``payload``, with ours and the others' places and names."""
        places = sorted([*others, *(self._places(payload) if payload else [])])
        merged = {key: value for key, value in payload.items() if key not in _OF_WINDOWS}
        if others:
            paths = sorted({text_path(place.partition(":")[2]) for place in places})
            said = places_payload(paths)
            # A category in somebody else's file can't be read here; what the points say of it stays.
            merged |= {key: value for key, value in said.items() if key != "category" or value}
        return {**merged, **self._held(sha256, places)}

    def _held(self, sha256: str, places: Sequence[str]) -> dict[str, Any]:
        text = "\0".join([sha256, *places])
        return {
            PLACES: list(places),
            HOLDERS: sorted({place.partition(":")[0] for place in places}),
            HELD: hashlib.sha256(text.encode()).hexdigest()[:32],
        }

    def _places(self, payload: Payload) -> list[str]:
        return sorted(f"{self._indexer}:{path}" for path in payload["paths"])

    def _paths(self, places: Sequence[str]) -> list[str]:
        """Ours among these places."""
        mine = f"{self._indexer}:"
        return [place.removeprefix(mine) for place in places if place.startswith(mine)]

    def _others(self, places: Sequence[str]) -> list[str]:
        return [place for place in places if not place.startswith(f"{self._indexer}:")]

    def _own(self, where: Filter | None) -> Filter:
        return (where or Filter()).also(Clause(HOLDERS, "=", self._indexer))


def _contents(where: Filter) -> tuple[str, ...]:
    """The contents that a filter names, if it names any."""
    named = [clause.value for clause in where.clauses if (clause.field, clause.op) == ("sha256", "in")]
    return tuple(str(value) for values in named if not isinstance(values, str | int | float) for value in values)


def _sha256(point: Point) -> str:
    return str(point.payload["sha256"])


def _plain(payload: Payload) -> dict[str, Any]:
    return {key: value for key, value in payload.items() if key not in _BOOKKEEPING}


def _contended(asked: str) -> MemoryStoreError:
    return MemoryStoreError(
        f"another indexer that keeps changing the same sounds ({asked})", "a pause", "run `earshot index` again"
    )
