"""One process holds the memory of a library folder; all others ask it, and one of them takes its place when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar

from earshot.limits import WAIT_S
from earshot.lock import LibraryLock, holder_of
from engine.errors import LibraryBusyError, MemoryStoreError
from engine.memory.base import FIELDS, Memory
from engine.memory.checks import check_filter
from engine.memory.edge import EdgeMemory
from engine.memory.guest import GuestMemory, HolderGoneError, HolderStuckError, ReadingMemory
from engine.memory.host import Host, remove_stale
from engine.memory.turns import Turns
from engine.types import Filter, FloatArray, Hit, Record, Space

T = TypeVar("T")
Tidy = Callable[[Memory], None]

#: Nobody is told of a wait shorter than this.
_QUIET_S = 0.5
_POLL_S = 0.05


class Sharing:
    """The memory of one library folder, ours while we hold its lock. Safe to use from several threads.

    A process that only reads lets go of the lock as soon as another wants to write, and asks that one from then on.
    """

    def __init__(
        self,
        folder: Path,
        memory_folder: Path,
        fields: Mapping[str, type] = FIELDS,
        prepare: Callable[[Space], None] = lambda _: None,
    ) -> None:
        """The lock lies in ``folder``; ``fields`` are those to filter by. ``prepare`` is called when the lock is ours
        and the memory of a space is about to be opened, and may refuse by raising."""
        self._folder, self._memory_folder, self._fields, self._prepare = folder, memory_folder, fields, prepare
        self._door = threading.RLock()  # held to take the lock, to let go of it, and to begin or end writing
        self._turns = Turns()  # reading: asking the memory we hold; alone: letting go of it
        self._pen = threading.Lock()  # held by the one of our threads that writes, or waits to
        self._lock: LibraryLock | None = None
        self._edge: EdgeMemory | None = None
        self._host: Host | None = None
        self._writes = False

    @property
    def is_written(self) -> bool:
        """Whether somebody may be writing just now: a thread of ours, or whoever else holds the memory."""
        return self._writes or self._edge is None

    def ask(self, space: Space, tidy: Tidy, question: Callable[[Memory], T]) -> T:
        """The answer of whoever holds the memory; where nobody does, we take it.

        Where the holder ends on the way, the question is asked again. Raises ``LibraryBusyError`` if the holder
        neither answers nor ends.
        """
        deadline = 0.0
        while True:
            with self._turns.reading():
                if self._edge is not None:
                    return question(self._edge)
            if self._taken(space, tidy):
                continue
            try:
                return question(self._guest(space))
            except HolderGoneError as error:
                deadline = deadline or time.monotonic() + WAIT_S
                if time.monotonic() >= deadline:
                    raise self._busy() from error
            except HolderStuckError as error:
                raise self._busy() from error
            time.sleep(_POLL_S)

    @contextmanager
    def writing(self, space: Space, tidy: Tidy, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[Memory]:
        """The memory, ours to write for the time inside. See ``Keep.writing``."""
        deadline = time.monotonic() + wait_s
        if not self._pen.acquire(timeout=min(wait_s, threading.TIMEOUT_MAX)):
            raise self._busy()
        try:
            yield self._taken_to_write(space, tidy, deadline, on_wait)
        finally:
            with self._door:
                self._writes = False
                self._say()
            self._pen.release()

    def _taken_to_write(self, space: Space, tidy: Tidy, deadline: float, on_wait: Callable[[str], None]) -> EdgeMemory:
        began, told = time.monotonic(), False
        while True:
            with self._door:
                if self._taken(space, tidy) and self._edge is not None:
                    self._writes = True
                    self._say()
                    return self._edge
            if self._is_let_in(space):
                continue
            now = time.monotonic()
            if now >= deadline:
                raise self._busy()
            if not told and now - began >= _QUIET_S:
                on_wait(f"waiting for {self._holder()} in {self._folder}")
                told = True
            time.sleep(min(_QUIET_S if told else _POLL_S, deadline - now))

    def _is_let_in(self, space: Space) -> bool:
        """Whether the holder has just let go of the lock for us: it does unless it writes itself."""
        with suppress(HolderGoneError, HolderStuckError):
            return self._guest(space).ask_to_be_let_in()
        return False

    def _taken(self, space: Space, tidy: Tidy) -> bool:
        """Whether the memory is ours now. Raises what opening it raises."""
        with self._door:
            if self._edge is not None:
                return True
            lock = LibraryLock.take(self._folder)
            if lock is None:
                return False
            edge = EdgeMemory(self._memory_folder, self._fields)
            try:
                self._lock, self._host = lock, self._hosting(lock)
                self._say()  # so that guests wait for us from now on
                self._prepare(space)
                edge.ensure_space(space.space_id, space.dim)
                tidy(edge)
                if self._host is not None:
                    self._host.serve(edge, (space.space_id, space.dim))
            except BaseException:
                self._let_go(edge)
                raise
            self._edge = edge
            return True

    def _hosting(self, lock: LibraryLock) -> Host | None:
        """Somebody who answers the others; None where no socket can be made, then they wait for the lock."""
        if lock.before and lock.before.address:
            remove_stale(lock.before.address)
        try:
            return Host(self._folder, lock.mode, self._make_room)
        except OSError:
            return None

    def _say(self) -> None:
        if self._lock is not None:
            self._lock.say("indexing" if self._writes else "searching", self._host.address if self._host else None)

    def _make_room(self) -> bool:
        """Let go of the memory for another process that wants to write, unless we write ourselves."""
        with self._door:
            if not self._writes:
                self.close()
            return not self._writes

    def _guest(self, space: Space) -> GuestMemory:
        """The memory of whoever holds it. Raises ``HolderGoneError`` where nobody answers."""
        holder = holder_of(self._folder)
        if holder is None or holder.address is None:
            raise HolderGoneError("nobody who answers")
        return GuestMemory(self._folder / holder.address, (space.space_id, space.dim))

    def _holder(self) -> str:
        return str(holder_of(self._folder) or "another process")

    def _busy(self) -> LibraryBusyError:
        holder = holder_of(self._folder)
        action = "wait for it, or stop it"
        if holder and holder.is_elsewhere:
            action += " there: a library on a network disk is shared by the processes of one machine at a time"
        return LibraryBusyError(f"the library {self._folder} held by {self._holder()}", "it free", action)

    def close(self) -> None:
        """Let go of the memory; the next question takes it again, or asks another. Twice is fine."""
        with self._door, self._turns.alone():
            edge, self._edge = self._edge, None
            self._let_go(edge)

    def _let_go(self, edge: EdgeMemory | None) -> None:
        """The socket first, the lock last: who waits for the lock finds a memory that nobody has open."""
        host, lock = self._host, self._lock
        self._host = self._lock = None
        try:
            if host is not None:
                host.close()
            if edge is not None:
                edge.close()
        finally:
            if lock is not None:
                lock.release()


class SharedReader(ReadingMemory):
    """A ``Memory`` to be read, answered by whoever holds it at the time of each call."""

    def __init__(self, sharing: Sharing, space: Space, tidy: Tidy) -> None:
        self._sharing, self._space, self._tidy = sharing, space, tidy

    @property
    def shared(self) -> bool:
        """See ``Memory.shared``."""
        return self._sharing.is_written

    def ensure_space(self, space_id: str, dim: int) -> None:
        """See ``Memory.ensure_space``."""
        self._ask(lambda memory: memory.ensure_space(space_id, dim))

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``."""
        return self._ask(lambda memory: memory.search_many(vector, k, wheres))

    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """See ``Memory.search_vectors``."""
        return self._ask(lambda memory: memory.search_vectors(vector, k, where))

    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search_words``."""
        return self._ask(lambda memory: memory.search_words(words, k, where))

    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``."""
        return self._ask(lambda memory: memory.count(where))

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """See ``Memory.scroll``."""
        check_filter(where)
        return self._records(where, with_vectors)

    def _records(self, where: Filter | None, with_vectors: bool) -> Iterator[Record]:
        """By id, so whoever answers after a change of hands can be followed from where the last one left."""
        last, failed_at = "", None
        while True:
            try:
                for record in self._ask(lambda memory: _begun(memory.scroll(where, with_vectors))):
                    if record.id > last:
                        last = record.id
                        yield record
                return
            except (HolderGoneError, MemoryStoreError):  # the second where we let go of it ourselves
                if last == failed_at:
                    raise
                failed_at = last

    def _ask(self, question: Callable[[Memory], T]) -> T:
        return self._sharing.ask(self._space, self._tidy, question)


def _begun(records: Iterator[Record]) -> Iterator[Record]:
    """With the first one read, so that whoever can't answer says so now."""
    return chain(list(islice(records, 1)), records)
