"""The documents of a served collection: one sparse vector a point that has words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qdrant_client import models

from engine.memory.keywords import WORDS, sparse_document
from engine.memory.server_link import ServerLink
from engine.types import Payload

_AT_ONCE = 256
#: As in the embedded store, how rare a token is, is counted over the documents that are there.
CORPUS = models.IdfCorpusParams(corpus=models.Filter(must=[models.HasVectorCondition(has_vector=WORDS)]))
_LATER_WINDOW = models.FieldCondition(key="window", range=models.Range(gt=0.0))


def stored_vector(vector: list[float], payload: Payload) -> Any:
    """The vectors of a point as the server takes them: ``vector``, and its document if it has one."""
    indices, values = sparse_document(payload)
    return {"": vector, WORDS: models.SparseVector(indices=indices, values=values)} if indices else vector


def dense(vectors: Any) -> Any:
    """Of the vectors of a point, the one that is no document."""
    return vectors[""] if isinstance(vectors, dict) else vectors


def documents(link: ServerLink, name: str, condition: models.Filter) -> Iterator[tuple[str, Payload]]:
    """All points that match and may have a document, with their payloads."""
    where = models.Filter(must=[condition], must_not=[_LATER_WINDOW])
    offset: Any = None
    while True:
        page, offset = link.ask(
            "reading points",
            lambda client, offset=offset: client.scroll(  # type: ignore[misc]  # the offset of this page
                name, where, limit=_AT_ONCE, offset=offset, with_payload=True
            ),
        )
        yield from ((str(point.id), point.payload or {}) for point in page)
        if offset is None:
            return


def write_documents(link: ServerLink, name: str, payloads: Mapping[str, Payload]) -> None:
    """Make the documents of these points those that these payloads say."""
    sparse = {point_id: sparse_document(payload) for point_id, payload in payloads.items()}
    points = [
        models.PointVectors(id=point_id, vector={WORDS: models.SparseVector(indices=indices, values=values)})
        for point_id, (indices, values) in sparse.items()
        if indices
    ]
    for first in range(0, len(points), _AT_ONCE):
        some = points[first : first + _AT_ONCE]
        link.ask("writing words", lambda client, some=some: client.update_vectors(name, some, wait=True))  # type: ignore[misc]
    empty = models.PointIdsList(points=[point_id for point_id, (indices, _) in sparse.items() if not indices])
    if empty.points:
        link.ask("removing words", lambda client: client.delete_vectors(name, [WORDS], empty, wait=True))


def words_request(
    query: tuple[Sequence[int], Sequence[float]], limit: int, where: models.Filter
) -> models.QueryRequest:
    """The question for the ``limit`` points whose documents say most of ``query``."""
    return models.QueryRequest(
        query=models.SparseVector(indices=list(query[0]), values=list(query[1])),
        using=WORDS,
        limit=limit,
        filter=where,
        with_payload=True,
        params=models.SearchParams(idf=CORPUS),
    )
