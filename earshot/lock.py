"""One process at a time holds a library: a lock file that says who, released by the system when the holder ends."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path
from typing import IO

from engine.errors import LibraryBusyError

_POLL_S = 0.05


class LibraryLock:
    """An exclusive lock on ``folder/lock``. A killed holder leaves no stale lock: the system drops it."""

    def __init__(self, folder: Path, wait_s: float) -> None:
        """Take the lock, waiting up to ``wait_s``. Raises ``LibraryBusyError`` naming the holder."""
        self._file: IO[str] = (folder / "lock").open("a+", encoding="utf-8")
        deadline = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() >= deadline:
                holder = self._holder()
                self._file.close()
                raise LibraryBusyError(f"the library {folder} held by {holder}", "it free", "wait for it, or stop it")
            time.sleep(_POLL_S)
        self._file.seek(0)
        self._file.truncate()
        json.dump({"pid": os.getpid(), "host": platform.node()}, self._file)
        self._file.flush()

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _holder(self) -> str:
        self._file.seek(0)
        try:
            holder = json.loads(self._file.read())
            return f"process {holder['pid']} on {holder['host']}"
        except (ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Let others in. Twice is fine."""
        self._file.close()
