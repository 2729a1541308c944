"""The collection of a served memory: its name, its settings, and the alias it stands behind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from engine.errors import MemoryStoreError
from engine.memory.base import FIELDS, HELD, HOLDERS
from engine.memory.graph import (
    BUILD_BREADTH,
    INDEX_FROM_POINTS,
    LINKS,
    SCAN_BELOW_POINTS,
    SEARCH_BREADTH,
    indexed,
    must_scan,
)
from engine.memory.keywords import WORDS
from engine.memory.server_link import ServerLink
from engine.memory.server_options import Quantization, ServerOptions
from engine.types import Filter

#: Compressed vectors choose so many times the wanted points, which the vectors themselves then rank.
_OVERSAMPLING = 3.0

# With `prefix`, a part of a text is looked up in the index's own list of texts instead of in every payload. As in the
# embedded store, the indexes get no links of their own in the graph.
_TEXT = models.KeywordIndexParams(
    type=models.KeywordIndexType.KEYWORD, prefix=True, enable_hnsw=False, memory=models.Memory.COLD
)
_NUMBER = models.FloatIndexParams(type=models.FloatIndexType.FLOAT, enable_hnsw=False, memory=models.Memory.COLD)
# Servers in strict mode refuse filters by what has no index.
_ALSO_INDEXED = {HOLDERS: str, HELD: str}
_QUANTIZATIONS: dict[Quantization, models.QuantizationConfig] = {
    "scalar": models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, memory=models.Memory.PINNED)
    ),
    "turbo": models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(memory=models.Memory.PINNED)),
}


@dataclass(frozen=True, slots=True)
class Collection:
    """One collection of a server, as it stands there."""

    name: str
    space_id: str
    dim: int
    is_quantized: bool

    def search_params(self, limit: int, where: Filter) -> models.SearchParams:
        """How to look for ``limit`` points; as in the embedded store, for the same reasons."""
        if must_scan(where):
            return models.SearchParams(exact=True)
        return models.SearchParams(
            hnsw_ef=max(limit, SEARCH_BREADTH),
            acorn=models.AcornSearchParams(enable=True) if where else None,
            quantization=models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING)
            if self.is_quantized
            else None,
        )


def current(link: ServerLink, alias: str) -> Collection | None:
    """The collection behind the alias; None where there is no such alias. Raises ``MemoryStoreError``."""
    aliases = link.ask("reading its aliases", lambda client: client.get_aliases().aliases)
    names = [one.collection_name for one in aliases if one.alias_name == alias]
    return described(link, names[0]) if names else None


def described(link: ServerLink, name: str) -> Collection:
    """What is known of a collection. Raises ``MemoryStoreError`` if earshot did not make it."""
    config = information(link, name).config
    notes: dict[str, Any] = dict(config.metadata or {})
    vectors = config.params.vectors
    if "space_id" not in notes or not isinstance(vectors, models.VectorParams):
        raise MemoryStoreError(
            f"the collection {name} of {link.where}, which earshot did not make",
            "one of its own",
            "use another server, or have the alias or collection renamed",
        )
    return Collection(name, str(notes["space_id"]), vectors.size, config.quantization_config is not None)


def information(link: ServerLink, name: str) -> models.CollectionInfo:
    """Its settings and its state."""
    return link.ask(f"reading the collection {name}", lambda client: client.get_collection(name))


def make(
    link: ServerLink,
    alias: str,
    space_id: str,
    dim: int,
    options: ServerOptions,
    fields: Mapping[str, type] = FIELDS,
) -> Collection:
    """Make the collection of a space, its indexes, and then its alias, or whatever of these is missing.

    The alias comes last, so what is behind it is whole. Of two who make different ones at the same moment, one finds
    the other's behind the alias: the collection returned is the one that is there now.
    """
    name = f"{alias}-{re.sub(r'[^A-Za-z0-9@._-]+', '-', space_id)}"

    def create() -> None:
        link.ask(
            f"making the collection {name}",
            lambda client: client.create_collection(
                name,
                vectors_config=models.VectorParams(size=dim, distance=models.Distance.COSINE),
                sparse_vectors_config={WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                hnsw_config=_graph(dim),
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=indexing_threshold(dim)),
                quantization_config=_QUANTIZATIONS[options.quantization] if options.quantization else None,
                shard_number=options.shards,
                replication_factor=options.replicas,
                metadata={"made_by": "earshot", "space_id": space_id, "dim": dim},
            ),
        )

    def exists() -> bool:
        return link.ask(f"looking for {name}", lambda client: client.collection_exists(name))

    if not exists():
        try:
            create()
        except MemoryStoreError:
            if not exists():  # somebody else may have made it at the same moment
                raise
    for field, schema in missing_indexes(link, name, fields).items():
        make_index(link, name, field, schema)
    to_name = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
    if current(link, alias) is None:
        link.ask(f"naming it {alias}", lambda client: client.update_collection_aliases([to_name]))
    found = current(link, alias)
    assert found is not None, "an alias that was just made"
    return found


def missing_indexes(
    link: ServerLink, name: str, fields: Mapping[str, type]
) -> dict[str, models.KeywordIndexParams | models.FloatIndexParams]:
    """The payload indexes that the collection should have and has not: of a new one all, after an update the new."""
    known = information(link, name).payload_schema
    wanted = {**indexed(fields), **_ALSO_INDEXED}
    return {key: _TEXT if kind is str else _NUMBER for key, kind in wanted.items() if key not in known}


def make_index(
    link: ServerLink, name: str, field: str, schema: models.KeywordIndexParams | models.FloatIndexParams
) -> None:
    """Make one payload index."""
    link.ask(
        f"making the index of {field}",
        lambda client: client.create_payload_index(name, field, field_schema=schema, wait=True),
    )


def set_indexing(link: ServerLink, name: str, threshold: int, patience_s: float | None = None) -> None:
    """From how many kB of vectors on a segment gets a graph; 0 for never."""
    link.ask(
        "setting when to build the graph",
        lambda client: client.update_collection(
            name, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=threshold)
        ),
        patience_s,
    )


def indexing_threshold(dim: int) -> int:
    """The size in kB from which on a segment gets a graph."""
    return round(INDEX_FROM_POINTS * _kb(dim))


def _graph(dim: int) -> models.HnswConfigDiff:
    return models.HnswConfigDiff(
        m=LINKS, ef_construct=BUILD_BREADTH, full_scan_threshold=round(SCAN_BELOW_POINTS * _kb(dim))
    )


def _kb(dim: int) -> float:
    return dim * 4 / 1024
