"""A shard copied and its index built in another process, while this one goes on answering."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from engine.errors import MemoryStoreError

_BUILDER = Path(__file__).with_name("edge_build.py")
_PIECE = 1024 * 1024
_LAST_WORDS = 500
_TRIES = 3


def built_copy(shard: Path, copy: Path) -> bool:
    """Copy a flushed shard that nobody writes to, and build the copy's index. Whether anything changed by that.

    Raises ``MemoryStoreError`` if the builder fails; Ctrl-C ends it. The copy is left as it is then.
    """
    for tries_left in reversed(range(_TRIES)):
        if copy.exists():
            shutil.rmtree(copy)
        try:
            copy_shard(shard, copy)
            break
        except FileNotFoundError:  # Qdrant tidies up on threads of its own, a moment after it was flushed
            if not tries_left:
                raise
    command = [sys.executable, "-P", str(_BUILDER), str(copy), str(os.getpid())]
    # In a process group of its own, Ctrl-C in the terminal reaches us alone, and we end it.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as builder:
        try:
            said, complaint = builder.communicate()
        except BaseException:
            builder.kill()
            raise
    if builder.returncode:
        raise _failure(builder.returncode, complaint.strip())
    return said.split()[-1:] == ["changed"]


def copy_shard(shard: Path, copy: Path) -> None:
    """Copy a folder with all below it; holes stay holes. Raises ``OSError``."""
    copy.mkdir()
    for path in shard.rglob("*"):
        target = copy / path.relative_to(shard)
        if path.is_dir():
            target.mkdir()
        else:
            _copy_with_holes(path, target)


def _failure(status: int, complaint: str) -> MemoryStoreError:
    reason = complaint[-_LAST_WORDS:] or "it said nothing"
    if status < 0:
        reason = f"ended by {signal.Signals(-status).name}"
    short = {-signal.SIGBUS: "disk", -signal.SIGKILL: "memory"}.get(status)
    advice = f"free some {short}" if short else "try again"
    return MemoryStoreError(
        f"building the index failed ({reason})", action=f"{advice}; nothing is lost, searching is only slower"
    )


def _copy_with_holes(source: Path, target: Path) -> None:
    """Copy a file's data; its holes stay holes: they are a third of a shard, and would cost disk and time if filled."""
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        end = 0
        writer.truncate(os.fstat(reader.fileno()).st_size)
        while (start := _next_data(reader.fileno(), end)) is not None:
            end = os.lseek(reader.fileno(), start, os.SEEK_HOLE)
            reader.seek(start)
            writer.seek(start)
            while start < end and (piece := reader.read(min(_PIECE, end - start))):
                writer.write(piece)
                start += len(piece)


def _next_data(handle: int, offset: int) -> int | None:
    """Where data begins at or after ``offset``; None where there is none."""
    try:
        return os.lseek(handle, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
