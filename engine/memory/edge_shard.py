"""Opening a Qdrant Edge shard: its settings, its folder, and what its errors mean."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as qdrant

from engine.errors import DamagedMemoryError, EarshotError, LibraryBusyError, MemoryStoreError
from engine.memory.base import FIELDS
from engine.memory.edge_words import make_words
from engine.memory.graph import (
    BUILD_BREADTH,
    INDEX_FROM_POINTS,
    LINKS,
    SCAN_BELOW_POINTS,
    SEARCH_BREADTH,
    indexed,
    must_scan,
)
from engine.types import Filter

_MIB = 1024 * 1024
#: Free bytes without which a shard is not opened: one more segment of its log, twice over.
ROOM_TO_OPEN = 64 * _MIB
#: Free bytes without which nothing is written. A shard grows by files of 32 MiB (log, vectors, payloads) and 4 MiB
#: (each index). They are sparse: a new shard takes 1 MiB on ext4, yet 110 MiB where mapping a file fills it (tmpfs).
#: No setting makes them smaller.
ROOM_TO_WRITE = 256 * _MIB

# What the system, not the shard, is at fault for, as what was expected and what to do: the shard is whole, and must not
# be removed.
_SYSTEM_FAULTS = {
    errno.ENOSPC: ("room on its disk", "free some space"),
    errno.EDQUOT: ("room on its disk", "free some space"),
    errno.ENOMEM: ("enough memory", "free some"),
    errno.EMFILE: ("fewer open files", "allow more of them (ulimit -n)"),
    errno.ENFILE: ("fewer open files", "allow more of them"),
    errno.EACCES: ("a folder that we may read and write", "check its permissions"),
    errno.EPERM: ("a folder that we may read and write", "check its permissions"),
    errno.EROFS: ("a disk that can be written", "copy the library to one"),
    errno.EEXIST: ("a folder", "remove the file that stands in its place, or choose another folder"),
    errno.ENOTDIR: ("a folder", "choose a folder, not a file"),
}
_DAMAGE = ("one that can be read and written", "try again; if it stays so, `earshot repair` looks at all of it")
_MOST_WORDS = 300
_SYSTEM_FAULT = re.compile(r"\(os error (\d+)\)")

# Payload indexes are mapped, not read at opening: that takes a sixth of the time. They get no links of their own in the
# graph, which would double the time to build it.
_TEXT = qdrant.KeywordIndexParams(memory=qdrant.Memory.Cold, enable_hnsw=False)
_NUMBER = qdrant.FloatIndexParams(memory=qdrant.Memory.Cold, enable_hnsw=False)


def config(dim: int) -> qdrant.EdgeConfig:
    """The settings of a shard for vectors ``[dim]``.

    The write-ahead log stays on: its lock is what keeps a second process out.
    """
    kb = dim * 4 / 1024
    return qdrant.EdgeConfig(
        vectors=qdrant.EdgeVectorParams(size=dim, distance=qdrant.Distance.Cosine),
        hnsw_config=qdrant.HnswIndexConfig(
            m=LINKS, ef_construct=BUILD_BREADTH, full_scan_threshold=round(SCAN_BELOW_POINTS * kb)
        ),
        optimizers=qdrant.EdgeOptimizersConfig(
            default_segment_number=1, indexing_threshold=round(INDEX_FROM_POINTS * kb)
        ),
    )


def search_params(limit: int, where: Filter) -> qdrant.SearchParams:
    """How to look for ``limit`` points.

    A plain walk of the graph under a filter loses its way where the matching points are strewn (recall 0.35 for a
    substring that one path in seven has). Where Qdrant can estimate how many match, ACORN finds them: it looks at the
    neighbours' neighbours (Patel et al. 2024). Where it can't, checking every point is right, and at 100,000 faster.
    """
    if must_scan(where):
        return qdrant.SearchParams(exact=True)
    acorn = qdrant.AcornSearchParams(enable=True) if where else None
    return qdrant.SearchParams(hnsw_ef=max(limit, SEARCH_BREADTH), acorn=acorn)


def open_shard(folder: Path, dim: int, fields: Mapping[str, type] = FIELDS) -> qdrant.EdgeShard:
    """The shard of this folder for vectors ``[dim]``, made if there is none, with indexes of these ``fields``.

    To be called within ``alone``. Raises ``LibraryBusyError`` and ``MemoryStoreError``.
    """
    if not folder.exists():
        check_room(folder.parent, ROOM_TO_WRITE)
        with refusals(folder, "making a shard"):
            _make(folder, dim, fields)
    check_room(folder, ROOM_TO_OPEN)
    with refusals(folder, "opening the shard"):
        return qdrant.EdgeShard.load(str(folder), config(dim))


def _make(folder: Path, dim: int, fields: Mapping[str, type]) -> None:
    """Make a shard beside its place and move it there complete.

    So a process killed on the way leaves nothing that looks like a shard.
    """
    unfinished = folder.with_name(folder.name + ".new")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    shard = qdrant.EdgeShard.create(str(unfinished), config(dim))
    make_words(shard)
    for key, kind in indexed(fields).items():
        shard.update(qdrant.UpdateOperation.create_field_index(key, _TEXT if kind is str else _NUMBER))
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


def check_room(folder: Path, needed: int) -> None:
    """Raise ``MemoryStoreError`` unless the disk of ``folder`` has ``needed`` bytes free.

    Qdrant maps its files into memory. Where the disk can't hold what is written to a map, the system does not raise but
    ends the process (SIGBUS), so this has to be asked before.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MemoryStoreError(
            f"{free // _MIB} MiB free on the disk of {folder}",
            f"at least {-(-needed // _MIB)} MiB",
            "free some space, then do the same again: what was written is kept",
        )


def allocated(folder: Path) -> int:
    """The bytes on disk of all files below ``folder``; what is sparse counts by what it holds."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:  # Qdrant tidies up on threads of its own
            continue
    return total


def has_room(folder: Path, needed: int) -> bool:
    """Whether the disk of ``folder`` has ``needed`` bytes free."""
    return shutil.disk_usage(folder).free >= needed


@contextmanager
def refusals(folder: Path, asked: str) -> Iterator[None]:
    """Turn what Qdrant and the system raise, panics included, into errors that name the folder and what was asked.

    That is ``DamagedMemoryError`` unless the system is at fault.
    """
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
            fault = _system_fault(error)
            kind = MemoryStoreError if fault else DamagedMemoryError
            raise kind(f"{folder}: {asked} failed ({_said(error, folder)})", *(fault or _DAMAGE)) from error
        raise


def _said(error: BaseException, folder: Path) -> str:
    """The beginning of what was raised; Qdrant repeats the folder."""
    words = " ".join(str(error).replace(f"{folder}/", "").replace(str(folder), "it").split())
    return words if len(words) <= _MOST_WORDS else f"{words[:_MOST_WORDS]}…"


def _system_fault(error: BaseException) -> tuple[str, str] | None:
    """What was expected and what to do where the system refused; None where it did not."""
    match = _SYSTEM_FAULT.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(match[1]) if match else None
    return _SYSTEM_FAULTS.get(number) if number is not None else None
