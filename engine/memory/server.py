"""Qdrant server: one collection a space behind an alias, which many machines may fill and ask."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from itertools import chain
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from qdrant_client import QdrantClient, models

from engine.errors import MemoryStoreError, SpaceMismatchError
from engine.memory import server_collection
from engine.memory.base import FIELDS
from engine.memory.checks import check_filter, check_k, check_payload, check_points, check_vector
from engine.memory.folding import with_folded, without_folded
from engine.memory.graph import INDEX_FROM_POINTS, best_hits
from engine.memory.keywords import sparse_query, touches_document
from engine.memory.server_collection import Collection
from engine.memory.server_filter import server_filter
from engine.memory.server_link import ServerLink
from engine.memory.server_options import ServerAddress, ServerOptions
from engine.memory.server_words import dense, documents, stored_vector, words_request, write_documents
from engine.types import Filter, FloatArray, Hit, Payload, Point, Record

#: Points in one upload: some 200 kB at 384 numbers by gRPC, a megabyte as JSON, which common proxies let through.
UPLOAD_POINTS = 128
#: Uploads, or parts of a question, that are under way at once.
STREAMS = 4
#: Filters asked for in one request, so that its size stays bounded.
_WHERES_AT_ONCE = 64
_PAGE = 1000
#: From so many written points on, the graph waits until all are there; fewer it takes in as they come.
BULK_POINTS = INDEX_FROM_POINTS // 4
#: How long ``optimise`` waits for the graph; then the server goes on by itself.
OPTIMISE_S = 600.0
_POLL_S = 0.25


class ServerMemory:
    """A ``Memory`` on a Qdrant server, in the collection behind the alias ``name``.

    REST by default: one port, the one in the URL, through whatever proxy; gRPC where ``options.grpc_port`` says that
    the server's is open. ``fields`` are those to filter by, ``client`` is for tests. All writes may be repeated, so an
    upload that got no answer is sent again; a server that went away is waited for (``ServerLink.ask``).
    """

    def __init__(
        self,
        url: str,
        options: ServerOptions | None = None,
        name: str = "sounds",
        client: QdrantClient | None = None,
        fields: Mapping[str, type] = FIELDS,
    ) -> None:
        """Asks nobody anything yet. Raises ``LibraryError`` for a URL without meaning."""
        self.shared = True
        self.name, self._fields = name, fields
        self._options = options or ServerOptions()
        self._link = ServerLink(ServerAddress.parse(url), self._options, client)
        self._collection: Collection | None = None
        self._streams = ThreadPoolExecutor(STREAMS, thread_name_prefix="earshot-upload")
        self._bulk_lock = Lock()
        self._written = 0
        self._in_bulk = False
        self._closed = False

    @property
    def where(self) -> str:
        """The server and the collection, for messages."""
        return f"{self._link.where}, collection {self._collection.name if self._collection else self.name}"

    @property
    def say(self) -> Callable[[str], None]:
        """Who is told, in one line, that the server is away, back, or not quite as it should be."""
        return self._link.say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self._link.say = say

    def until(self, given_up: Callable[[], bool]) -> AbstractContextManager[None]:
        """See ``Patient.until``."""
        return self._link.until(given_up)

    def known_space(self) -> tuple[str, int] | None:
        """The space of what stands behind the alias, and the numbers of its vectors; None where there is nothing."""
        if self._closed:
            self._open()
        known = self._collection or self._current()
        return (known.space_id, known.dim) if known else None

    def ensure_space(self, space_id: str, dim: int) -> None:
        """See ``Memory.ensure_space``."""
        if self._closed:
            self._open()
        known = self._collection or self._current()
        if known is None:
            known = server_collection.make(self._link, self.name, space_id, dim, self._options, self._fields)
        if (known.space_id, known.dim) != (space_id, dim):
            raise SpaceMismatchError(
                f"a library of {known.space_id} ({known.dim} numbers) at {self._link.where}, alias {self.name}",
                f"{space_id} ({dim} numbers)",
                f"use the bundle of {known.space_id}, or index into another library",
            )
        if self._collection is None and self._options.quantization and not known.is_quantized:
            self._link.say(f"{self._link.where}: {known.name} was made without quantization, and stays so")
        self._collection = known

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``Memory.upsert``. Batches go out on several streams; all have arrived when it returns."""
        self._write({point.id: point for point in points}, points, models.UpdateMode.UPSERT)

    def insert(self, points: Sequence[Point]) -> None:
        """See ``CommonMemory.insert``. Of one id twice the first stays."""
        self._write({point.id: point for point in reversed(points)}, points, models.UpdateMode.INSERT_ONLY)

    def _write(self, by_id: dict[str, Point], points: Sequence[Point], mode: models.UpdateMode) -> None:
        """Send each id once, because the streams don't keep an order."""
        collection = self._open()
        check_points(points, collection.dim)
        each = list(by_id.values())
        batches = [each[first : first + UPLOAD_POINTS] for first in range(0, len(each), UPLOAD_POINTS)]
        if batches:
            self._begin_writing(collection, len(each))
            try:
                sent = self._streams.map(lambda batch: self._upload(collection, batch, mode), batches)
            except RuntimeError as error:
                if self._closed:  # by another thread, just now: as if it had come while waiting
                    raise KeyboardInterrupt from error
                raise
            list(sent)

    def _upload(self, collection: Collection, batch: Sequence[Point], mode: models.UpdateMode) -> None:
        structs = [
            models.PointStruct(
                id=point.id, vector=stored_vector(point.vector.tolist(), point.payload), payload=_stored(point.payload)
            )
            for point in batch
        ]
        self._link.ask(
            f"writing {len(structs)} points",
            lambda client: client.upsert(collection.name, structs, wait=True, update_mode=mode),
        )

    def delete(self, where: Filter) -> None:
        """See ``Memory.delete``."""
        collection = self._open()
        if not where:
            raise ValueError("an empty filter would delete everything")
        selector = models.FilterSelector(filter=server_filter(where))
        self._link.ask("deleting points", lambda client: client.delete(collection.name, selector, wait=True))

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """See ``Memory.set_payload``. The server takes a null for the removal of its key."""
        collection = self._open()
        check_payload(payload, "set_payload")
        selector, stored = models.FilterSelector(filter=server_filter(where)), with_folded(payload)
        known = (
            {i: {**was, **payload} for i, was in documents(self._link, collection.name, server_filter(where))}
            if touches_document(payload)
            else {}
        )
        self._link.ask(
            f"setting {', '.join(payload)}",
            lambda client: client.set_payload(collection.name, stored, selector, wait=True),
        )
        write_documents(self._link, collection.name, known)

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search``."""
        return self.search_many(vector, k, [where or Filter()])[0]

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``."""
        collection = self._open()
        check_k(k)
        check_vector(vector, collection.dim, "the query")
        for where in wheres:
            check_filter(where)
        if k == 0 or not wheres:
            return [[] for _ in wheres]
        query = vector.tolist()

        def ask(limit: int, wheres: list[Filter]) -> list[list[Hit]]:
            parts = [wheres[first : first + _WHERES_AT_ONCE] for first in range(0, len(wheres), _WHERES_AT_ONCE)]
            return list(chain(*self._streams.map(lambda part: self._nearest(collection, query, limit, part), parts)))

        return best_hits(k, wheres, ask)

    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """See ``Memory.search_vectors``."""
        collection, vectors = self._open(), dict[str, FloatArray]()
        check_k(k)
        check_vector(vector, collection.dim, "the query")
        check_filter(where)
        if k == 0:
            return []

        def ask(limit: int, wheres: list[Filter]) -> list[list[Hit]]:
            return self._nearest(collection, vector.tolist(), limit, wheres, vectors)

        return [(hit, vectors[hit.id]) for hit in best_hits(k, [where or Filter()], ask)[0]]

    def _nearest(
        self,
        collection: Collection,
        query: list[float],
        limit: int,
        wheres: Sequence[Filter],
        vectors: dict[str, FloatArray] | None = None,
    ) -> list[list[Hit]]:
        """The hits for each filter; their own vectors are put into ``vectors``, if it is there."""
        requests = [
            models.QueryRequest(
                query=query,
                limit=limit,
                filter=server_filter(where),
                with_payload=True,
                with_vector=vectors is not None,
                params=collection.search_params(limit, where),
            )
            for where in wheres
        ]
        answers = self._link.ask(
            f"searching for the {limit} nearest", lambda client: client.query_batch_points(collection.name, requests)
        )
        if vectors is not None:
            vectors.update((str(p.id), np.array(dense(p.vector), np.float32)) for a in answers for p in a.points)
        return [[Hit(str(p.id), p.score, _given(p.payload)) for p in answer.points] for answer in answers]

    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search_words``."""
        collection = self._open()
        check_k(k)
        check_filter(where)
        query = sparse_query(words)
        if k == 0 or not query[0]:
            return []

        def ask(limit: int, wheres: list[Filter]) -> list[list[Hit]]:
            requests = [words_request(query, limit, server_filter(where)) for where in wheres]
            answers = self._link.ask(
                f"searching for the {limit} that say most",
                lambda client: client.query_batch_points(collection.name, requests),
            )
            return [[Hit(str(p.id), p.score, _given(p.payload)) for p in answer.points] for answer in answers]

        return best_hits(k, [where or Filter()], ask, math.inf)[0]

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """See ``Memory.scroll``."""
        return self._pages(self._open(), server_filter(where), with_vectors)

    def _pages(self, collection: Collection, condition: models.Filter, with_vectors: bool) -> Iterator[Record]:
        offset: Any = None
        while True:
            page, offset = self._link.ask(
                "reading points",
                lambda client, offset=offset: client.scroll(  # type: ignore[misc]  # the offset of this page
                    collection.name, condition, limit=_PAGE, offset=offset, with_payload=True, with_vectors=with_vectors
                ),
            )
            for point in page:
                vector = np.array(dense(point.vector), dtype=np.float32) if with_vectors else None
                yield Record(str(point.id), _given(point.payload), vector)
            if offset is None:
                return

    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``."""
        collection, condition = self._open(), server_filter(where)
        return self._link.ask("counting", lambda client: client.count(collection.name, condition, exact=True).count)

    def _begin_writing(self, collection: Collection, points: int) -> None:
        """Before each write: from the first on patience is a run's, and no graph is built while points pour in."""
        with self._bulk_lock:
            if not self._written:
                self._link.lasts = True
                for field, schema in server_collection.missing_indexes(
                    self._link, collection.name, self._fields
                ).items():
                    server_collection.make_index(self._link, collection.name, field, schema)
            self._written += points
            if self._written >= BULK_POINTS and not self._in_bulk:
                self._in_bulk = True  # before it is so: whatever comes, it is taken back
                server_collection.set_indexing(self._link, collection.name, 0)

    def end_bulk(self) -> None:
        """Let the server build the graph again, where we told it not to; asked once, and nothing is waited for.

        For a run that ends without ``optimise``. If the server is away, the next run's ``optimise`` does it.
        """
        with self._bulk_lock:
            if not self._in_bulk or self._collection is None:
                return
            self._in_bulk = False
            threshold = server_collection.indexing_threshold(self._collection.dim)
            with suppress(MemoryStoreError):
                server_collection.set_indexing(self._link, self._collection.name, threshold, patience_s=0.0)

    def optimise(self) -> None:
        """See ``Memory.optimise``. The server builds by itself; this waits for it, but not for ever.

        Also puts right what a killed run left: a collection that was told not to build a graph.
        """
        collection = self._open()
        config = server_collection.information(self._link, collection.name).config.optimizer_config
        self._written = 0
        if self._in_bulk or not config.indexing_threshold:
            server_collection.set_indexing(
                self._link, collection.name, server_collection.indexing_threshold(collection.dim)
            )
            self._in_bulk = False
            self._wait_until_built(collection)

    def _wait_until_built(self, collection: Collection) -> None:
        """Green twice in a row: a server takes a moment to see that there is something to build."""
        deadline = time.monotonic() + OPTIMISE_S
        greens = 0
        while greens < 2:
            state = server_collection.information(self._link, collection.name)
            if state.status == models.CollectionStatus.RED:
                raise MemoryStoreError(
                    f"{self.where}: building the graph failed ({state.optimizer_status})",
                    action="the server's log says more; searches go on, but slower",
                )
            greens = greens + 1 if state.status == models.CollectionStatus.GREEN else 0
            if greens < 2:
                if self._link.is_given_up():
                    return
                if time.monotonic() > deadline:
                    self._link.say(f"{self.where}: the server goes on building the graph by itself; searches work")
                    return
                time.sleep(_POLL_S)

    def flush(self) -> None:
        """See ``Memory.flush``: every write has waited until the server had it in its log."""
        self._open()

    def close(self) -> None:
        """See ``Memory.close``."""
        self._closed = True
        self._link.end_waits()
        self._streams.shutdown(cancel_futures=True)
        self.end_bulk()
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> Collection | None:
        self._link.check()
        return server_collection.current(self._link, self.name)

    def _open(self) -> Collection:
        if self._closed or self._collection is None:
            found = "a closed memory" if self._closed else "a memory without a space"
            raise MemoryStoreError(
                f"{found} at {self._link.where}", "an open one", "call ensure_space on a new memory first"
            )
        return self._collection


def _stored(payload: Payload) -> dict[str, Any]:
    return {key: value for key, value in with_folded(payload).items() if value is not None}


def _given(stored: Payload | None) -> dict[str, Any]:
    return {key: value for key, value in without_folded(stored or {}).items() if value is not None}
