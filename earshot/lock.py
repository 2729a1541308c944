"""One process at a time holds a library: a lock file that says who, released by the system when the holder ends."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from engine.errors import LibraryError

_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a library, since when (seconds since 1970) it does what, and where it can be asked.

    Earshot 0.1.0 said neither what it does, nor since when, and answered nobody.
    """

    pid: int
    host: str
    since_s: float | None
    doing: str
    address: str | None = None

    def __str__(self) -> str:
        if self.since_s is None:
            return f"process {self.pid} on {self.host}"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since_s))
        return f"process {self.pid} on {self.host}, {self.doing} since {since}"

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on another machine."""
        return self.host != platform.node()


class LibraryLock:
    """An exclusive lock on ``folder/lock``. A killed holder leaves no stale lock: the system drops it."""

    def __init__(self, file: IO[str], before: Holder | None) -> None:
        """To be made by ``take``. ``before`` is what the last holder said, which may have been killed; ``mode`` is who
        may read the file.
        """
        self._file = file
        self.before = before
        self.mode = os.fstat(file.fileno()).st_mode

    @classmethod
    def take(cls, folder: Path) -> LibraryLock | None:
        """The lock, unless somebody else has it. Raises ``LibraryError`` where there can be none."""
        try:
            file = (folder / _NAME).open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return None
            except BaseException:
                file.close()
                raise
        except OSError as error:
            raise LibraryError(
                f"{error.filename or folder}: {error.strerror}",
                "a library on a disk with locks, that we may write to",
                "make it writable, or copy the folder to where you may write: `earshot status` alone can do without",
            ) from error
        return cls(file, holder_of(folder))

    @staticmethod
    def is_taken(folder: Path) -> bool:
        """Whether somebody has it, or may have: needs no right to write, and makes nothing."""
        try:
            with (folder / _NAME).open(encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return False

    def say(self, doing: str, address: str | None) -> None:
        """Let others read what we do, and where we answer."""
        self._file.seek(0)
        self._file.truncate()
        json.dump(asdict(Holder(os.getpid(), platform.node(), time.time(), doing, address)), self._file)
        self._file.flush()

    def release(self) -> None:
        """Let others in. Twice is fine."""
        self._file.close()


def holder_of(folder: Path) -> Holder | None:
    """Who said last that it holds the library; None where that can't be read, as while it is being written."""
    try:
        said = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        if "since_s" not in said:  # earshot 0.1.0
            return Holder(int(said["pid"]), str(said["host"]), None, "")
        return Holder(
            int(said["pid"]), str(said["host"]), float(said["since_s"]), str(said["doing"]), said.get("address")
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
