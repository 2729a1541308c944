"""Opening a Qdrant Edge shard: its settings, its folder, and what its errors mean."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as qdrant

from engine.errors import EarshotError, LibraryBusyError, MemoryStoreError
from engine.memory.base import FIELDS
from engine.memory.edge_filter import stored_key
from engine.memory.folding import folded_key
from engine.types import Filter

# Measured at 100,000 x 384 (benchmarks/bench_memory.py); 12 links lose recall under filters, 128 candidates in building
# gain none. The write-ahead log stays on: its lock is what keeps a second process out.
# Below this many points brute force takes a few milliseconds, is exact, and spares the building of a graph.
_INDEX_FROM_POINTS = 20_000
# A filter that leaves fewer points than this is answered by brute force over them.
_SCAN_BELOW_POINTS = 10_000
_LINKS, _BUILD_BREADTH, _SEARCH_BREADTH = 16, 100, 128

# Payload indexes are mapped, not read at opening: that takes a sixth of the time. They get no links of their own in the
# graph, which would double the time to build it.
_TEXT = qdrant.KeywordIndexParams(memory=qdrant.Memory.Cold, enable_hnsw=False)
_NUMBER = qdrant.FloatIndexParams(memory=qdrant.Memory.Cold, enable_hnsw=False)
_INDEXES = {
    folded_key(field) if kind is str else field: _TEXT if kind is str else _NUMBER for field, kind in FIELDS.items()
}


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


def search_params(limit: int, where: Filter) -> qdrant.SearchParams:
    """How to look for ``limit`` points.

    A plain walk of the graph under a filter loses its way where the matching points are strewn (recall 0.35 for a
    substring that one path in seven has). Where Qdrant can estimate how many match, ACORN finds them: it looks at the
    neighbours' neighbours (Patel et al. 2024). Where it can't, checking every point is right, and at 100,000 faster.
    """
    if any(clause.op == "~" or stored_key(clause) not in _INDEXES for clause in where.clauses):
        return qdrant.SearchParams(exact=True)
    acorn = qdrant.AcornSearchParams(enable=True) if where else None
    return qdrant.SearchParams(hnsw_ef=max(limit, _SEARCH_BREADTH), acorn=acorn)


def open_shard(folder: Path, dim: int) -> qdrant.EdgeShard:
    """The shard of this folder for vectors ``[dim]``, made if there is none.

    To be called within ``alone``. Raises ``LibraryBusyError`` and ``MemoryStoreError``.
    """
    with refusals(folder):
        if not folder.exists():
            _make(folder, dim)
        return qdrant.EdgeShard.load(str(folder), config(dim))


def _make(folder: Path, dim: int) -> None:
    """Make a shard beside its place and move it there complete.

    So a process killed on the way leaves nothing that looks like a shard.
    """
    unfinished = folder.with_name(folder.name + ".new")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    shard = qdrant.EdgeShard.create(str(unfinished), config(dim))
    for key, schema in _INDEXES.items():
        shard.update(qdrant.UpdateOperation.create_field_index(key, schema))
    shard.flush()
    shard.close()
    unfinished.rename(folder)
    sync_folder(folder.parent)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time make or open a shard here; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


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
    except (EarshotError, KeyboardInterrupt, SystemExit, GeneratorExit):
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
