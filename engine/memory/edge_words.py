"""The documents of a Qdrant Edge shard: one sparse vector a point that has words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import qdrant_edge as qdrant

from engine.memory.keywords import WORDS, sparse_document
from engine.types import Payload

_AT_ONCE = 1024
#: How rare a token is, is counted over the documents that are there: without this, removed ones count for a while.
CORPUS = qdrant.IdfParams(corpus=qdrant.Filter(must=[qdrant.HasVectorCondition(WORDS)]))
_LATER_WINDOW = qdrant.FieldCondition(key="window", range=qdrant.RangeFloat(gt=0.0))


def make_words(shard: qdrant.EdgeShard) -> None:
    """Let the shard's points have documents; again is fine."""
    shard.update(qdrant.UpdateOperation.create_sparse_vector(WORDS, modifier=qdrant.Modifier.Idf))


def stored_vector(vector: Any, payload: Payload) -> Any:
    """The vectors of a point as the shard takes them: ``vector``, and its document if it has one."""
    indices, values = sparse_document(payload)
    return {"": vector, WORDS: qdrant.SparseVector(indices, values)} if indices else vector


def documents(shard: qdrant.EdgeShard, condition: qdrant.Filter | None = None) -> Iterator[tuple[str, Payload]]:
    """All points that match and may have a document, with their payloads."""
    where = qdrant.Filter(must=[condition] if condition else [], must_not=[_LATER_WINDOW])
    offset: Any = None
    while True:
        page, offset = shard.scroll(
            qdrant.ScrollRequest(offset=offset, limit=_AT_ONCE, filter=where, with_payload=True)
        )
        yield from ((str(point.id), point.payload or {}) for point in page)
        if offset is None:
            return


def write_documents(shard: qdrant.EdgeShard, payloads: Iterator[tuple[str, Payload]]) -> None:
    """Make the documents of these points those that these payloads say."""
    while some := list(islice(payloads, _AT_ONCE)):
        sparse = [(point_id, *sparse_document(payload)) for point_id, payload in some]
        if full := [(i, qdrant.SparseVector(indices, values)) for i, indices, values in sparse if indices]:
            points = [qdrant.PointVectors(point_id, {WORDS: vector}) for point_id, vector in full]
            shard.update(qdrant.UpdateOperation.update_vectors(points))
        if empty := [point_id for point_id, indices, _ in sparse if not indices]:
            shard.update(qdrant.UpdateOperation.delete_vectors([*empty], [WORDS]))


def words_request(query: tuple[Sequence[int], Sequence[float]], limit: int, where: qdrant.Filter | None) -> Any:
    """The question for the ``limit`` points whose documents say most of ``query``."""
    vector = qdrant.SparseVector(list(query[0]), list(query[1]))
    return qdrant.QueryRequest(
        query=qdrant.Query.Nearest(vector, using=WORDS),
        limit=limit,
        filter=where,
        with_payload=True,
        params=qdrant.SearchParams(idf=CORPUS),
    )
