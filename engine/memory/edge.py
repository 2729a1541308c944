"""Qdrant Edge in process: one shard for the space, in a folder. Nothing to start."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import numpy as np
import qdrant_edge as qdrant

from engine.errors import MemoryStoreError, SpaceMismatchError
from engine.memory.checks import check_filter, check_k, check_payload, check_points, check_vector
from engine.memory.edge_filter import edge_filter
from engine.memory.edge_shard import (
    ROOM_TO_OPEN,
    ROOM_TO_WRITE,
    allocated,
    alone,
    check_room,
    open_shard,
    refusals,
    search_params,
    sync_folder,
)
from engine.memory.folding import with_folded, without_folded
from engine.memory.graph import best_hits
from engine.types import Filter, FloatArray, Hit, Payload, Point, Record

_PAGE = 256
_BATCH = 1024


class EdgeMemory:
    """A ``Memory`` in ``folder``: the shard in a folder named after its space, and ``current``, which names the space.

    One process at a time may hold it, even to read.
    """

    def __init__(self, folder: Path) -> None:
        self.shared = False
        self.folder = folder
        self._shard: qdrant.EdgeShard | None = None
        self._space: tuple[str, int] | None = None
        self._closed = False

    def ensure_space(self, space_id: str, dim: int) -> None:
        """See ``Memory.ensure_space``."""
        if self._closed:
            self._open_shard()
        if self._shard is not None:
            self._refuse_other(space_id, dim)
            return
        with refusals(self.folder, f"opening the space {space_id}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with alone(self.folder):
                self._refuse_other(space_id, dim)
                self._shard = open_shard(self.folder / f"{quote(space_id, safe='@')}.shard", dim)
                self._space = (space_id, dim)
                self._write_current(space_id, dim)

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``Memory.upsert``."""
        shard, dim = self._open_shard()
        check_points(points, dim)
        with refusals(self.folder, f"writing {len(points)} points"):
            for first in range(0, len(points), _BATCH):
                check_room(self.folder, ROOM_TO_WRITE)
                batch = [
                    qdrant.Point(point.id, _numbers(point.vector), _stored(point.payload))
                    for point in points[first : first + _BATCH]
                ]
                shard.update(qdrant.UpdateOperation.upsert_points(batch))

    def delete(self, where: Filter) -> None:
        """See ``Memory.delete``."""
        shard, _ = self._open_shard()
        if not where:
            raise ValueError("an empty filter would delete everything")
        condition = _condition(where)
        check_room(self.folder, ROOM_TO_OPEN)
        with refusals(self.folder, f"deleting where {where}"):
            shard.update(qdrant.UpdateOperation.delete_points_by_filter(condition or qdrant.Filter()))

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """See ``Memory.set_payload``."""
        shard, _ = self._open_shard()
        check_payload(payload, "set_payload")
        condition = _condition(where) or qdrant.Filter()
        check_room(self.folder, ROOM_TO_WRITE)
        with refusals(self.folder, f"setting {', '.join(payload)}"):
            shard.update(qdrant.UpdateOperation.set_payload_by_filter(condition, with_folded(payload)))

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search``."""
        return self.search_many(vector, k, [where or Filter()])[0]

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``."""
        shard, dim = self._open_shard()
        check_k(k)
        check_vector(vector, dim, "the query")
        for where in wheres:
            check_filter(where)
        if k == 0 or not wheres:
            return [[] for _ in wheres]
        query = qdrant.Query.Nearest(_numbers(vector))

        def ask(limit: int, wheres: list[Filter]) -> list[list[Hit]]:
            requests = [
                qdrant.QueryRequest(
                    query=query,
                    limit=limit,
                    filter=_condition(where),
                    with_payload=True,
                    params=search_params(limit, where),
                )
                for where in wheres
            ]
            answers = shard.query_batch(qdrant.QueryBatchRequest(requests))
            return [[_hit(point) for point in found] for found in answers]

        with refusals(self.folder, f"searching for the {k} nearest"):
            return best_hits(k, wheres, ask)

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """See ``Memory.scroll``."""
        shard, _ = self._open_shard()
        return self._pages(shard, _condition(where), with_vectors)

    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``."""
        shard, _ = self._open_shard()
        condition = _condition(where)
        with refusals(self.folder, "counting"):
            return shard.count(qdrant.CountRequest(exact=True, filter=condition))

    def optimise(self) -> None:
        """See ``Memory.optimise``.

        Qdrant holds Python's lock while it builds, so every other thread of this process stands still:
        measured, 25 s at 40,000 x 256 and 69 s at 100,000 on two shared cores, with one building thread or two alike.
        No setting changes that. It writes the shard anew beside the old one, so as much again must be free on the disk.
        """
        shard, _ = self._open_shard()
        check_room(self.folder, ROOM_TO_WRITE + allocated(self.folder))
        with refusals(self.folder, "building the index"):
            shard.optimize()

    def flush(self) -> None:
        """See ``Memory.flush``."""
        shard, _ = self._open_shard()
        with refusals(self.folder, "flushing"):
            shard.flush()

    def close(self) -> None:
        """See ``Memory.close``."""
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

    def _open_shard(self) -> tuple[qdrant.EdgeShard, int]:
        if self._shard is None or self._space is None:
            found = "a closed memory" if self._closed else "a memory without a space"
            raise MemoryStoreError(
                f"{found} at {self.folder}", "an open one", "call ensure_space on a new memory first"
            )
        return self._shard, self._space[1]

    def _pages(self, shard: qdrant.EdgeShard, condition: qdrant.Filter | None, with_vectors: bool) -> Iterator[Record]:
        offset: Any = None
        while True:
            request = qdrant.ScrollRequest(
                offset=offset, limit=_PAGE, filter=condition, with_payload=True, with_vector=with_vectors
            )
            with refusals(self.folder, "reading points"):
                page, offset = shard.scroll(request)
            for point in page:
                vector = np.array(point.vector, dtype=np.float32) if with_vectors else None
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
        path = self.folder / "current"
        with refusals(path, "reading it", f"if it stays so, remove {self.folder} and index again"):
            if not path.exists():
                return None
            current = json.loads(path.read_text(encoding="utf-8"))
            return str(current["space_id"]), int(current["dim"])

    def _write_current(self, space_id: str, dim: int) -> None:
        """Name the space in one step: a reader sees the old file or the new one, also after a power cut."""
        path = self.folder / "current"
        if path.exists():
            return
        unfinished = self.folder / "current.new"
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump({"space_id": space_id, "dim": dim}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        sync_folder(self.folder)


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
