"""The spaces of a library folder: one that answers, and beside it the one before, or one that is being filled.

The space that answers has the library's ledger and lies in ``memory/sounds``. Each other lies in a folder of its own
below ``memory/spaces``, with a ledger of its own beside its shards. Which one answers is a setting of the library's
ledger, written in the same transaction as what that ledger knows of files: that is the one moment of a switch. The
folders follow: whoever next holds the library's lock, before the memory is opened, moves them to their places.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from earshot.lock import LibraryLock, holder_of
from earshot.places import LEDGER, MEMORY, make_folder
from engine.errors import LibraryBusyError, SpaceMismatchError
from engine.memory.base import Memory
from engine.memory.edge import EdgeMemory
from engine.memory.edge_shard import allocated, sync_folder
from engine.types import Space
from indexer.ledger import Ledger

#: Settings of the ledger: the space that answers, its bundle, and the space before it.
SPACE, BUNDLE, PREVIOUS = "space_id", "bundle", "previous"
_SPACES = Path("memory") / "spaces"
_QUIET_S, _POLL_S = 0.5, 0.1


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes on a disk: free ones, and those that a memory takes."""

    free: int
    used: int


@dataclass(frozen=True, slots=True)
class Filling:
    """A space that does not answer, ours to fill: its memory, and the ledger of what it has."""

    space_id: str
    memory: Memory
    ledger: Ledger


class Spaces(Protocol):
    """The spaces of one library besides the one that answers; what ``earshot.reindexing`` wants of a keep."""

    def filling(self, space: Space, wait_s: float, on_wait: Callable[[str], None]) -> AbstractContextManager[Filling]:
        """A space beside the one that answers, made if it isn't there, ours alone for the time inside.

        Raises ``LibraryBusyError`` if another process fills it after ``wait_s``; ``MemoryStoreError``.
        """

    def beside(self, space_id: str) -> tuple[str, int] | None:
        """A space that lies beside, with the numbers of its vectors; None where it isn't there."""

    def others(self) -> Iterator[str]:
        """The names of those that lie beside."""

    def room(self) -> Room | None:
        """What the disk has, and the memory that answers takes; None where that can't be known."""

    def leave(self, space: Space, ledger: Ledger) -> None:
        """Before a switch: keep what ``ledger`` says of the space that answers, for the way back."""

    def lacking(self, filled: Filling) -> str | None:
        """What others have to do before this space may answer, if anything."""

    def hand_over(self, filled: Filling) -> None:
        """The last step before the ledger's."""

    def drop(self, space_id: str) -> None:
        """Remove a space that lies beside. Raises ``LibraryBusyError`` if somebody fills it."""

    def follow(self, ledger: Ledger) -> bool:
        """Let the ledger say which space answers, where somebody else has switched; whether that was so."""


class FolderSpaces:
    """The ``Spaces`` of the library in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def filling(self, space: Space, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[Filling]:
        """See ``Spaces.filling``."""
        folder = self.folder_of(space.space_id)
        with (
            locked(folder, space.space_id, wait_s, on_wait),
            closing(Ledger(folder / LEDGER)) as ledger,
            EdgeMemory(self.sounds(space.space_id)) as memory,
        ):
            memory.ensure_space(space.space_id, space.dim)
            yield Filling(space.space_id, memory, ledger)

    def beside(self, space_id: str) -> tuple[str, int] | None:
        """See ``Spaces.beside``."""
        has_ledger = (self.folder_of(space_id) / LEDGER).is_file()
        return EdgeMemory(self.sounds(space_id)).known_space() if has_ledger else None

    def room(self) -> Room:
        """See ``Spaces.room``."""
        return Room(shutil.disk_usage(self._folder).free, allocated(self._folder / MEMORY))

    def leave(self, space: Space, ledger: Ledger) -> None:
        """See ``Spaces.leave``."""
        folder = self.folder_of(space.space_id)
        make_folder(folder)
        ledger.copy_to(folder / LEDGER)

    def lacking(self, filled: Filling) -> None:
        """See ``Spaces.lacking``: a folder has one ledger, which knows all."""

    def follow(self, ledger: Ledger) -> bool:
        """See ``Spaces.follow``: the ledger is what says it."""
        return False

    def hand_over(self, filled: Filling) -> None:
        """See ``Spaces.hand_over``: closed, so that its folder can be moved."""
        filled.memory.close()

    def drop(self, space_id: str) -> None:
        """See ``Spaces.drop``."""
        folder = self.folder_of(space_id)
        if LibraryLock.is_taken(folder):
            holder = holder_of(folder) or "another process"
            raise LibraryBusyError(f"{space_id} being filled by {holder}", "it free", "wait for it, or stop it")
        self._remove(space_id)

    def _remove(self, space_id: str) -> None:
        """The ledger goes first: without it nobody takes the space for whole."""
        folder = self.folder_of(space_id)
        (folder / LEDGER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)

    def folder_of(self, space_id: str) -> Path:
        """The folder of a space that does not answer."""
        return self._folder / _SPACES / quote(space_id, safe="@")

    def sounds(self, space_id: str) -> Path:
        """The memory of sounds of a space that does not answer."""
        return self.folder_of(space_id) / MEMORY.name

    def others(self) -> Iterator[str]:
        """See ``Spaces.others``."""
        folder = self._folder / _SPACES
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield unquote(path.name)

    def current(self) -> str | None:
        """The space that answers, as the ledger has it; None for a library in which nothing was ever heard."""
        path = self._folder / LEDGER
        if not path.is_file():
            return None
        with closing(Ledger(path)) as ledger:
            return _text(ledger.setting(SPACE))

    def known(self) -> tuple[str, int] | None:
        """The space of the memory that answers, and the numbers of its vectors, wherever it lies just now."""
        current = self.current()
        waiting = EdgeMemory(self.sounds(current)).known_space() if current else None
        return waiting or EdgeMemory(self._folder / MEMORY).known_space()

    def settle(self, space: Space) -> None:
        """Before the memory is opened, under the library's lock: move the folders to where the ledger says.

        Raises ``SpaceMismatchError`` if another space answers by now than ``space``.
        """
        current = self.current()
        if current is None:
            return
        if current != space.space_id:
            raise moved_on(current, space.space_id)
        mine = self.folder_of(current)
        if not mine.exists():
            return
        if (waiting := self.sounds(current)).exists():
            memory = self._folder / MEMORY
            if memory.exists():
                left = EdgeMemory(memory).known_space()
                _move(memory, self.sounds(left[0] if left else "unknown"))
            _move(waiting, memory)
        self._remove(current)  # what is left there is a ledger whose words are the library's own now


@contextmanager
def locked(folder: Path, what: str, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[None]:
    """The folder is made, and ours alone for the time inside. Raises ``LibraryBusyError`` after ``wait_s``."""
    began, told = time.monotonic(), False
    while True:
        make_folder(folder)
        if lock := LibraryLock.take(folder):
            break
        holder = str(holder_of(folder) or "another process")
        waited_s = time.monotonic() - began
        if waited_s >= wait_s:
            raise LibraryBusyError(f"{what} being filled by {holder}", "it free", "wait for it, or stop it")
        if not told and waited_s >= _QUIET_S:
            on_wait(f"waiting for {holder}, which fills {what}")
            told = True
        time.sleep(_POLL_S)
    try:
        lock.say("filling", None)
        yield
    finally:
        lock.release()


def moved_on(found: str, expected: str) -> SpaceMismatchError:
    """What to say where the library has been switched meanwhile."""
    return SpaceMismatchError(
        f"a library that answers in space {found} by now", expected, "open it again: it was heard anew, or rolled back"
    )


def _move(source: Path, target: Path) -> None:
    """In one step, durable."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():  # of an earlier move that a switch made worthless
        shutil.rmtree(target)
    source.rename(target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
