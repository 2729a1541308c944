"""Qdrant Edge in process: one shard for the space, in a folder. Nothing to start."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import numpy as np
import qdrant_edge as qdrant

from engine.errors import MemoryStoreError, SpaceMismatchError
from engine.memory.base import FIELDS
from engine.memory.checks import check_filter, check_k, check_payload, check_points, check_vector
from engine.memory.edge_filter import edge_filter
from engine.memory.edge_rebuild import built_copy
from engine.memory.edge_shard import (
    ROOM_TO_OPEN,
    ROOM_TO_WRITE,
    allocated,
    alone,
    check_room,
    has_room,
    open_shard,
    refusals,
    search_params,
    sync_folder,
)
from engine.memory.edge_words import documents, make_words, stored_vector, words_request, write_documents
from engine.memory.folding import with_folded, without_folded
from engine.memory.graph import INDEX_FROM_POINTS, best_hits
from engine.memory.keywords import VERSION, sparse_query, touches_document
from engine.memory.turns import Turns
from engine.types import Filter, FloatArray, Hit, Payload, Point, Record

_PAGE = 256
_BATCH = 1024
_NUMBERED = re.compile(r"(.+)\.(\d+)\.shard")


class EdgeMemory:
    """A ``Memory`` in ``folder``: a shard in a folder of its own, and ``current``, which names the space and the shard.

    One process at a time may hold it, even to read; ``engine.memory.host`` lets others ask it.
    """

    def __init__(self, folder: Path, fields: Mapping[str, type] = FIELDS) -> None:
        """``fields`` are those to filter by, and their kinds: a new shard gets an index of each."""
        self.shared = False
        self.folder, self._fields = folder, fields
        self._shard: qdrant.EdgeShard | None = None
        self._space: tuple[str, int] | None = None
        self._name = ""
        self._words = 0
        self._closed = False
        self._changed = False
        self._writing = threading.RLock()
        self._turns = Turns()  # reading: using the shard; alone: changing or closing it

    def ensure_space(self, space_id: str, dim: int) -> None:
        """See ``Memory.ensure_space``."""
        if self._closed:
            self._open_shard()
        if self._shard is not None:
            self._refuse_other(space_id, dim)
            return
        with self._writing, refusals(self.folder, f"opening the space {space_id}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder):
                self._refuse_other(space_id, dim)
                known = self._current()
                self._name = known[2] if known else _first_name(space_id)
                self._shard = open_shard(self.folder / self._name, dim, self._fields)
                self._space = (space_id, dim)
                if known:
                    self._remove_leftovers()
                self._words = self._known_words() if known else VERSION  # a new shard was made for them
                if self._words != VERSION and has_room(self.folder, ROOM_TO_WRITE):
                    self._read_documents(self._shard)
                elif not known:
                    self._write_current(self._name)

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``Memory.upsert``."""
        with self._to_write() as (shard, dim), refusals(self.folder, f"writing {len(points)} points"):
            check_points(points, dim)
            for first in range(0, len(points), _BATCH):
                check_room(self.folder, ROOM_TO_WRITE)
                batch = [
                    qdrant.Point(point.id, stored_vector(_numbers(point.vector), point.payload), _stored(point.payload))
                    for point in points[first : first + _BATCH]
                ]
                shard.update(qdrant.UpdateOperation.upsert_points(batch))

    def delete(self, where: Filter) -> None:
        """See ``Memory.delete``."""
        with self._to_write() as (shard, _):
            if not where:
                raise ValueError("an empty filter would delete everything")
            condition = _condition(where)
            check_room(self.folder, ROOM_TO_OPEN)
            with refusals(self.folder, f"deleting where {where}"):
                shard.update(qdrant.UpdateOperation.delete_points_by_filter(condition or qdrant.Filter()))

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """See ``Memory.set_payload``."""
        with self._to_write() as (shard, _):
            check_payload(payload, "set_payload")
            condition = _condition(where) or qdrant.Filter()
            check_room(self.folder, ROOM_TO_WRITE)
            with refusals(self.folder, f"setting {', '.join(payload)}"):
                news = touches_document(payload)
                known = [(i, {**was, **payload}) for i, was in documents(shard, condition)] if news else []
                shard.update(qdrant.UpdateOperation.set_payload_by_filter(condition, with_folded(payload)))
                write_documents(shard, iter(known))

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search``."""
        return self.search_many(vector, k, [where or Filter()])[0]

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``."""
        with self._to_read() as (shard, dim):
            check_k(k)
            check_vector(vector, dim, "the query")
            for where in wheres:
                check_filter(where)
            if k == 0 or not wheres:
                return [[] for _ in wheres]
            query = qdrant.Query.Nearest(_numbers(vector))
            with refusals(self.folder, f"searching for the {k} nearest"):
                return best_hits(k, wheres, lambda limit, rest: _ask(shard, query, limit, rest))

    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """See ``Memory.search_vectors``."""
        vectors: dict[str, FloatArray] = {}
        with self._to_read() as (shard, dim):
            check_k(k)
            check_vector(vector, dim, "the query")
            check_filter(where)
            if k == 0:
                return []

            def ask(limit: int, wheres: list[Filter]) -> list[list[Hit]]:
                requests = [_request(qdrant.Query.Nearest(_numbers(vector)), limit, one, True) for one in wheres]
                found = shard.query_batch(qdrant.QueryBatchRequest(requests))
                vectors.update((str(one.id), np.array(one.vector, np.float32)) for each in found for one in each)
                return _hits(found)

            with refusals(self.folder, f"searching for the {k} nearest"):
                return [(hit, vectors[hit.id]) for hit in best_hits(k, [where or Filter()], ask)[0]]

    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search_words``."""
        with self._to_read() as (shard, _):
            check_k(k)
            check_filter(where)
            query = sparse_query(words)
            if k == 0 or not query[0]:
                return []

            def ask(limit: int, wheres: list[Filter]) -> list[list[Hit]]:
                requests = [words_request(query, limit, _condition(where)) for where in wheres]
                return _hits(shard.query_batch(qdrant.QueryBatchRequest(requests)))

            with refusals(self.folder, f"searching for the {k} that say most"):
                return best_hits(k, [where or Filter()], ask, math.inf)[0]

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """See ``Memory.scroll``."""
        self._open_shard()
        return self._pages(_condition(where), with_vectors)

    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``."""
        with self._to_read() as (shard, _):
            condition = _condition(where)
            with refusals(self.folder, "counting"):
                return shard.count(qdrant.CountRequest(exact=True, filter=condition))

    def optimise(self) -> None:
        """See ``Memory.optimise``.

        Where there may be a graph to build, that is done by a process of its own on a copy: searching goes on
        meanwhile, writing waits. Copy and index need twice the shard's size free on the disk. Where that is not there
        but once the size is, it is built in place: every thread of this process then stands still, yet a library that
        is slow for a minute is better than one that stays slow. Without a graph it takes no time in place.
        """
        with self._writing:
            shard, _ = self._open_shard()
            size = allocated(self.folder)
            check_room(self.folder, ROOM_TO_WRITE + size)
            with refusals(self.folder, "building the index"):
                info = shard.info()
                if info.points_count < INDEX_FROM_POINTS or not has_room(self.folder, ROOM_TO_WRITE + 2 * size):
                    shard.optimize()
                elif self._changed or info.points_count - info.indexed_vectors_count >= INDEX_FROM_POINTS:
                    self._build_beside(shard)
            self._changed = False

    def _read_documents(self, shard: qdrant.EdgeShard) -> None:
        """Make the documents of a shard of an earlier earshot, or read them as this one does; done once."""
        make_words(shard)
        write_documents(shard, documents(shard))
        shard.flush()
        self._words = VERSION
        self._write_current(self._name)

    def _known_words(self) -> int:
        """How the documents of the current shard were read; 0 where it has none."""
        known = json.loads((self.folder / "current").read_text(encoding="utf-8")).get("words", 0)
        return known if isinstance(known, int) else 0

    def _build_beside(self, shard: qdrant.EdgeShard) -> None:
        """Let a copy be built, then answer from that. A kill leaves either shard current, and the other a leftover."""
        old, unfinished = self.folder / self._name, self.folder / f"{self._name}.new"
        shard.flush()
        try:
            if built_copy(old, unfinished):
                new = unfinished.rename(_next_name(old))
                self._exchange(shard, new)
        finally:
            self._remove_leftovers()

    def _exchange(self, shard: qdrant.EdgeShard, new: Path) -> None:
        """Answer from the shard in ``new`` instead."""
        built = open_shard(new, self._open_shard()[1], self._fields)
        with alone(self.folder), self._turns.alone():
            try:
                self._write_current(new.name)
            except BaseException:
                built.close()
                raise
            self._name, self._shard = new.name, built
            shard.close()

    def flush(self) -> None:
        """See ``Memory.flush``."""
        with self._writing:
            shard, _ = self._open_shard()
            with refusals(self.folder, "flushing"):
                shard.flush()

    def close(self) -> None:
        """See ``Memory.close``."""
        with self._writing, self._turns.alone():
            shard, self._shard, self._closed = self._shard, None, True
            if shard is not None:
                with refusals(self.folder, "closing"):
                    shard.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _to_read(self) -> Iterator[tuple[qdrant.EdgeShard, int]]:
        """The shard, which is not exchanged or closed inside, and the numbers of a vector."""
        with self._turns.reading():
            yield self._open_shard()

    @contextmanager
    def _to_write(self) -> Iterator[tuple[qdrant.EdgeShard, int]]:
        """The shard, to which nobody else writes inside, and the numbers of a vector."""
        with self._writing:
            opened = self._open_shard()
            self._changed = True
            yield opened

    def _open_shard(self) -> tuple[qdrant.EdgeShard, int]:
        if self._shard is None or self._space is None:
            found = "a closed memory" if self._closed else "a memory without a space"
            raise MemoryStoreError(
                f"{found} at {self.folder}", "an open one", "call ensure_space on a new memory first"
            )
        return self._shard, self._space[1]

    def _pages(self, condition: qdrant.Filter | None, with_vectors: bool) -> Iterator[Record]:
        offset: Any = None
        while True:
            request = qdrant.ScrollRequest(
                offset=offset,
                limit=_PAGE,
                filter=condition,
                with_payload=True,
                with_vector=[""] if with_vectors else False,
            )
            with self._to_read() as (shard, _), refusals(self.folder, "reading points"):
                page, offset = shard.scroll(request)
            for point in page:
                held = with_vectors and isinstance(point.vector, list)  # of a damaged shard it may be gone
                vector = np.array(point.vector, dtype=np.float32) if held else None
                yield Record(str(point.id), without_folded(point.payload or {}), vector)
            if offset is None:
                return

    def _refuse_other(self, space_id: str, dim: int) -> None:
        known = self._space or self.known_space()
        if known is not None and known != (space_id, dim):
            raise SpaceMismatchError(
                f"a library of {known[0]} ({known[1]} numbers) at {self.folder}",
                f"{space_id} ({dim} numbers)",
                f"use the bundle of {known[0]}, or index into another library",
            )

    def known_space(self) -> tuple[str, int] | None:
        """The space of what lies in the folder, and the numbers of its vectors; None where there is nothing yet."""
        current = self._current()
        return current and current[:2]

    def name(self, space_id: str, dim: int, shard: str) -> None:
        """Write down again which shard of the folder holds which space, where that can't be read any more."""
        with refusals(self.folder, f"naming {shard}"):
            self._space = (space_id, dim)
            self._write_current(shard)

    def take(self, other: Path) -> None:
        """Hold the memory of another folder instead of ours; both are closed, and nobody else has either open."""
        with refusals(self.folder, f"taking {other}"):
            current = EdgeMemory(other)._current()
            assert current is not None, "a memory that was filled"
            space_id, dim, shard = current
            if (self.folder / shard).exists():  # of an earlier try
                shutil.rmtree(self.folder / shard)
            (other / shard).rename(self.folder / shard)
            sync_folder(self.folder)
            self.name(space_id, dim, shard)
            shutil.rmtree(other, ignore_errors=True)

    def _current(self) -> tuple[str, int, str] | None:
        """The space, the numbers of its vectors, and the folder of its shard, which earshot 0.1.0 did not name."""
        path = self.folder / "current"
        with refusals(path, "reading it"):
            if not path.exists():
                return None
            current = json.loads(path.read_text(encoding="utf-8"))
            space_id, dim = str(current["space_id"]), int(current["dim"])
            shard = str(current.get("shard", _first_name(space_id)))
            if Path(shard).name != shard or not shard.endswith(".shard"):
                raise ValueError(f"{shard!r} is no name of a folder here")
            return space_id, dim, shard

    def _write_current(self, shard: str) -> None:
        """Name space and shard in one step: a reader sees the old file or the new one, also after a power cut."""
        space_id, dim = self._space or ("", 0)
        unfinished = self.folder / "current.new"
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump({"space_id": space_id, "dim": dim, "shard": shard, "words": self._words}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.folder / "current")
        sync_folder(self.folder)

    def _remove_leftovers(self) -> None:
        """Remove the shards, finished or not, that are not the current one: of builds that were killed or replaced."""
        for path in self.folder.glob("*.shard*"):
            if path.name != self._name:
                shutil.rmtree(path, ignore_errors=True)


def _first_name(space_id: str) -> str:
    return f"{quote(space_id, safe='@')}.shard"


def _next_name(shard: Path) -> Path:
    """``space.shard`` -> ``space.1.shard`` -> ``space.2.shard``."""
    match = _NUMBERED.fullmatch(shard.name)
    stem, number = (match[1], int(match[2])) if match else (shard.name.removesuffix(".shard"), 0)
    return shard.with_name(f"{stem}.{number + 1}.shard")


def _ask(shard: qdrant.EdgeShard, query: qdrant.Query, limit: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
    """The ``limit`` nearest for each filter, ties in any order."""
    requests = [_request(query, limit, where) for where in wheres]
    return _hits(shard.query_batch(qdrant.QueryBatchRequest(requests)))


def _request(query: qdrant.Query, limit: int, where: Filter, with_vectors: bool = False) -> qdrant.QueryRequest:
    return qdrant.QueryRequest(
        query=query,
        limit=limit,
        filter=_condition(where),
        with_payload=True,
        with_vector=[""] if with_vectors else False,
        params=search_params(limit, where),
    )


def _hits(answers: Sequence[Sequence[qdrant.ScoredPoint]]) -> list[list[Hit]]:
    return [[_hit(point) for point in found] for found in answers]


def _condition(where: Filter | None) -> qdrant.Filter | None:
    check_filter(where)
    return edge_filter(where) if where else None


def _hit(point: qdrant.ScoredPoint) -> Hit:
    return Hit(str(point.id), point.score, without_folded(point.payload or {}))


def _stored(payload: Payload) -> dict[str, Any]:
    return {key: value for key, value in with_folded(payload).items() if value is not None}


def _numbers(vector: FloatArray) -> list[float]:
    """The vector in the form that Qdrant takes fastest: measured, a memoryview is read twice as fast as the array."""
    return cast(list[float], memoryview(vector))  # type: ignore[arg-type]
