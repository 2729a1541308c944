"""Opening a Qdrant Edge shard: its settings, its folder, and what its errors mean."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as qdrant

from engine.errors import LibraryBusyError, MemoryStoreError
from engine.memory.base import FIELDS
from engine.memory.folding import folded_key

# Below this many points brute force answers in a few milliseconds, exactly, and there is no graph to build.
_INDEX_FROM_POINTS = 20_000
# A filter that leaves fewer points than this is answered by brute force over them.
_SCAN_BELOW_POINTS = 10_000
_LINKS, _BUILD_BREADTH = 16, 128
#: Candidates kept while walking the graph.
SEARCH_BREADTH = 128


def config(dim: int) -> qdrant.EdgeConfig:
    """The settings of a shard for vectors ``[dim]``."""
    kb = dim * 4 / 1024
    return qdrant.EdgeConfig(
        vectors=qdrant.EdgeVectorParams(size=dim, distance=qdrant.Distance.Cosine),
        hnsw_config=qdrant.HnswIndexConfig(
            m=_LINKS, ef_construct=_BUILD_BREADTH, full_scan_threshold=round(_SCAN_BELOW_POINTS * kb)
        ),
        optimizers=qdrant.EdgeOptimizersConfig(
            default_segment_number=1, indexing_threshold=round(_INDEX_FROM_POINTS * kb)
        ),
    )


def open_shard(folder: Path, dim: int) -> qdrant.EdgeShard:
    """The shard of this folder for vectors ``[dim]``, made if there is none.

    A new one is made beside its place and moved there complete, so a process killed on the way leaves nothing that
    looks like a shard. Raises ``LibraryBusyError`` and ``MemoryStoreError``.
    """
    if not folder.exists():
        _make(folder, dim)
    with refusals(folder):
        return qdrant.EdgeShard.load(str(folder), config(dim))


def _make(folder: Path, dim: int) -> None:
    unfinished = folder.with_name(folder.name + ".new")
    with refusals(folder):
        if unfinished.exists():
            shutil.rmtree(unfinished)
        shard = qdrant.EdgeShard.create(str(unfinished), config(dim))
        for field, kind in FIELDS.items():
            shard.update(_index(field, kind))
        shard.flush()
        shard.close()
        unfinished.rename(folder)
        sync_folder(folder.parent)


def _index(field: str, kind: type) -> qdrant.UpdateOperation:
    is_text = kind is str
    key = folded_key(field) if is_text else field
    schema = qdrant.PayloadSchemaType.Keyword if is_text else qdrant.PayloadSchemaType.Float
    return qdrant.UpdateOperation.create_field_index(key, schema)


def sync_folder(folder: Path) -> None:
    """Return when the names in this folder are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Turn what Qdrant raises, panics included, into errors that name the folder and what to do."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if "WouldBlock" in str(error):
            raise LibraryBusyError(
                f"{folder} held by another process", "a library that is free", "wait until it ends, or stop it"
            ) from error
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise MemoryStoreError(
                f"{folder}: {error}", action=f"if it stays so, remove {folder} and index again"
            ) from error
        raise
