"""Lets other processes ask the memory that this one holds, over a local socket."""

from __future__ import annotations

import os
import selectors
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import LibraryError, SpaceMismatchError
from engine.memory.base import Memory
from engine.memory.wire import PROTOCOL, Item, WireError, error_message, filter_of, receive, send, send_items
from engine.types import FloatArray

_NAME = "socket"
_PREFIX = "earshot-"
#: More guests than this at once are sent away, and come again a moment later.
_MOST_GUESTS = 32
#: How long a guest may take to ask, and to take what it asked for. One that is stuck holds a thread, never the memory.
_ASKING_S, _TAKING_S = 10.0, 60.0


class Host:
    """Answers the reading calls of ``Memory`` for guests, each on a thread of its own, until ``close``."""

    def __init__(
        self, memory: Memory, space: tuple[str, int], folder: Path, mode: int, let_in: Callable[[], bool]
    ) -> None:
        """Listen in ``folder``, or, where no socket can be made there, in a folder of the user's own.

        Args:
            memory: What is asked; its space is ``space``, the id and the numbers of a vector.
            folder: The library's. Its file system may have no sockets, its path may be too long for one (108 bytes).
            mode: The mode of a file; who may read that may ask.
            let_in: Called when another process wants to write. Whether it can: true once the memory is closed for it.

        Raises ``OSError`` where nobody can be listened to.
        """
        self._memory, self._space, self._let_in = memory, space, let_in
        self._closing = False
        self._places = threading.BoundedSemaphore(_MOST_GUESTS)
        self._listener, self._path = _listening(folder, mode)
        #: Where guests connect to: a name in the library's folder, or a whole path.
        self.address = _NAME if self._path.parent == folder else str(self._path)
        self._wake, waker = socket.socketpair()
        threading.Thread(target=self._accept, args=(waker,), name="earshot-host", daemon=True).start()

    def _accept(self, waker: socket.socket) -> None:
        with selectors.DefaultSelector() as selector, waker, self._listener:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(waker, selectors.EVENT_READ)
            while not self._closing:
                if all(key.fileobj is not self._listener for key, _ in selector.select()):
                    continue
                with suppress(OSError):
                    guest, _ = self._listener.accept()
                    if self._places.acquire(blocking=False):
                        threading.Thread(target=self._serve, args=(guest,), name="earshot-guest", daemon=True).start()
                    else:
                        guest.close()

    def _serve(self, guest: socket.socket) -> None:
        try:
            with guest, suppress(OSError, WireError):
                guest.settimeout(_ASKING_S)
                question, floats = receive(guest)
                guest.settimeout(_TAKING_S)
                try:
                    send_items(guest, self._answer(question, floats))
                except (OSError, WireError):
                    raise
                except Exception as error:  # noqa: BLE001 - the guest raises it
                    if not self._closing:  # else it is about us, and the guest asks whoever comes next
                        send(guest, error_message(error))
        finally:
            self._places.release()

    def _answer(self, question: dict[str, Any], floats: FloatArray) -> Iterator[Item]:
        if question.get("protocol") != PROTOCOL:
            raise LibraryError(
                f"a question of version {question.get('protocol')} to process {os.getpid()}, which holds the library",
                f"version {PROTOCOL}",
                "use the same earshot in both, or stop that process",
            )
        if tuple(question["space"]) != self._space:
            raise SpaceMismatchError(
                f"a library of {self._space[0]} ({self._space[1]} numbers)",
                "{} ({} numbers)".format(*question["space"]),
                f"use the bundle of {self._space[0]}, or another library",
            )
        answers: dict[str, Callable[[dict[str, Any], FloatArray], Iterator[Item]]] = {
            "hello": self._hello,
            "count": self._count,
            "search": self._search,
            "scroll": self._scroll,
            "let in": self._make_room,
        }
        return answers[question["ask"]](question, floats)

    def _hello(self, *_: object) -> Iterator[Item]:
        yield [], None

    def _count(self, question: dict[str, Any], _: FloatArray) -> Iterator[Item]:
        yield [self._memory.count(filter_of(question["where"]))], None

    def _search(self, question: dict[str, Any], vector: FloatArray) -> Iterator[Item]:
        wheres = [filter_of(where) for where in question["wheres"]]
        for number, hits in enumerate(self._memory.search_many(vector, int(question["k"]), wheres)):
            for hit in hits:
                yield [number, hit.id, hit.score, hit.payload], None

    def _scroll(self, question: dict[str, Any], _: FloatArray) -> Iterator[Item]:
        for record in self._memory.scroll(filter_of(question["where"]), bool(question["with_vectors"])):
            yield [record.id, record.payload], record.vector

    def _make_room(self, *_: object) -> Iterator[Item]:
        yield [self._let_in()], None

    def close(self) -> None:
        """Take no more guests; calls of theirs that are under way end with the memory. Twice is fine."""
        if self._closing:
            return
        self._closing = True
        self._wake.close()
        _remove(self._path)


def _listening(folder: Path, mode: int) -> tuple[socket.socket, Path]:
    """A socket that listens in ``folder`` or else in a private folder; its file is removed by ``_remove``."""
    try:
        return _bound(folder / _NAME, mode)
    except OSError:
        return _bound(Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_runtime_folder())) / _NAME, mode)


def _bound(path: Path, mode: int) -> tuple[socket.socket, Path]:
    path.unlink(missing_ok=True)  # of a holder that was killed: we have its lock
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(mode & 0o444 | (mode & 0o444) >> 1)  # to connect is to write
        listener.listen(_MOST_GUESTS)
    except BaseException:
        listener.close()
        raise
    return listener, path


def remove_stale(address: str) -> None:
    """Remove the private folder that a killed holder listened in; what is no such folder is left alone."""
    path = Path(address)
    if path.name == _NAME and path.parent.parent == _runtime_folder() and path.parent.name.startswith(_PREFIX):
        _remove(path)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent.name.startswith(_PREFIX) and path.parent.parent == _runtime_folder():
            path.parent.rmdir()


def _runtime_folder() -> Path:
    """Where sockets of this user belong; in the folder for temporary files nobody but mkdtemp's owner gets in."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    return runtime if runtime.is_dir() else Path(tempfile.gettempdir())
