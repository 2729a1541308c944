"""Lets other processes ask the memory that this one holds, over a local socket."""

from __future__ import annotations

import atexit
import os
import pwd
import selectors
import socket
import stat
import struct
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.errors import LibraryError, SpaceMismatchError
from engine.memory.base import Memory
from engine.memory.wire import PROTOCOL, Item, WireError, error_message, filter_of, receive_question, send, send_items
from engine.types import FloatArray

_NAME = "socket"
_PREFIX = "earshot-"
#: More guests than this at once are sent away, and come again a moment later; so many of any other user than ours.
_MOST_GUESTS, _MOST_STRANGERS = 32, 8
#: How long a guest may take to ask, and to take what it asked for. One that is stuck holds a thread, never the memory.
_ASKING_S, _TAKING_S = 2.0, 60.0
#: Who is at the other end of a local socket: process, user and group.
_PEER = struct.Struct("3i")
#: How long those who are here are waited for at the end.
_LEAVING_S = 0.5
_SERVING = "earshot-guest"
#: The sockets of this process, so that one which ends without closing its library leaves none behind.
_ours: set[Path] = set()
os.register_at_fork(after_in_child=_ours.clear)  # they are the parent's


class Host:
    """Answers the reading calls of ``Memory`` for guests, each on a thread of its own, until ``close``."""

    def __init__(self, folder: Path, mode: int, let_in: Callable[[], bool]) -> None:
        """Listen in ``folder``, or, where no socket can be made there, in a folder of the user's own.

        Guests may come from now on; they wait for ``serve``.

        Args:
            folder: The library's. Its file system may have no sockets, its path may be too long for one (108 bytes).
            mode: The mode of the library's lock; who may read that may ask, who may write it may ask to be let in.
            let_in: Called when such a process wants to write. Whether it can: true once the memory is closed for it.

        Raises ``OSError`` where nobody can be listened to.
        """
        self._let_in, self._mode = let_in, mode
        self._listener, self._path = _listening(folder, mode)
        self._group = self._path.stat().st_gid
        #: Where guests connect to: a name in the library's folder, or a whole path.
        self.address = _NAME if self._path.parent == folder else str(self._path)
        self._wake, self._waker = socket.socketpair()
        self._accepting: threading.Thread | None = None
        self._serving: Counter[int] = Counter()
        self._left = threading.Condition()
        self._closing = False

    def serve(self, memory: Memory, space: tuple[str, int]) -> None:
        """Answer from ``memory``, whose space has this id and so many numbers a vector, from now on."""
        self._memory, self._space = memory, space
        self._accepting = threading.Thread(target=self._accept, name="earshot-host", daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        self._listener.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._waker, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._listener in ready:
                    with suppress(OSError):
                        self._meet(self._listener.accept()[0])
                elif self._closing:
                    return

    def _meet(self, guest: socket.socket) -> None:
        _, user, group = _PEER.unpack(guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        with self._left:
            is_too_many = user != os.geteuid() and self._serving[user] >= _MOST_STRANGERS
            if is_too_many or self._serving.total() >= _MOST_GUESTS:
                guest.close()
                return
            self._serving[user] += 1
        threading.Thread(target=self._serve, args=(guest, user, group), name=_SERVING, daemon=True).start()

    def _serve(self, guest: socket.socket, user: int, group: int) -> None:
        try:
            with guest, suppress(OSError, WireError):
                question, floats = receive_question(guest, _ASKING_S)
                guest.settimeout(_TAKING_S)
                try:
                    send(guest, {"items": []})
                    if question.get("ask") == "let in" and not self._may_write(user, group):
                        raise LibraryError("a user who may only read the library", "one who may write to it")
                    send_items(guest, self._answer(question, floats))
                except (OSError, WireError):
                    raise
                except Exception as error:  # noqa: BLE001 - the guest raises it
                    if not self._closing:  # else it is about us, and the guest asks whoever comes next
                        send(guest, error_message(error))
        finally:
            with self._left:
                self._serving[user] -= 1
                self._left.notify_all()

    def _may_write(self, user: int, group: int) -> bool:
        """Whether this user may write the library's lock, as far as its mode says."""
        if user in (0, os.geteuid()) or self._mode & stat.S_IWOTH:
            return True
        return bool(self._mode & stat.S_IWGRP) and self._group in _groups(user, group)

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
            "search vectors": self._search_vectors,
            "words": self._words,
            "scroll": self._scroll,
            "let in": self._make_room,
        }
        return answers[question["ask"]](question, floats)

    def _hello(self, *_: object) -> Iterator[Item]:
        return iter(())

    def _count(self, question: dict[str, Any], _: FloatArray) -> Iterator[Item]:
        yield [self._memory.count(filter_of(question["where"]))], None

    def _search(self, question: dict[str, Any], vector: FloatArray) -> Iterator[Item]:
        wheres = [filter_of(where) for where in question["wheres"]]
        for number, hits in enumerate(self._memory.search_many(vector, int(question["k"]), wheres)):
            for hit in hits:
                yield [number, hit.id, hit.score, hit.payload], None

    def _search_vectors(self, question: dict[str, Any], vector: FloatArray) -> Iterator[Item]:
        for hit, found in self._memory.search_vectors(vector, int(question["k"]), filter_of(question["where"])):
            yield [hit.id, hit.score, hit.payload], found

    def _words(self, question: dict[str, Any], _: FloatArray) -> Iterator[Item]:
        for hit in self._memory.search_words(str(question["words"]), int(question["k"]), filter_of(question["where"])):
            yield [hit.id, hit.score, hit.payload], None

    def _scroll(self, question: dict[str, Any], _: FloatArray) -> Iterator[Item]:
        for record in self._memory.scroll(filter_of(question["where"]), bool(question["with_vectors"])):
            yield [record.id, record.payload], record.vector

    def _make_room(self, *_: object) -> Iterator[Item]:
        yield [self._let_in()], None

    def close(self) -> None:
        """Take no more guests, and answer those who are here unless that takes long. Twice is fine.

        Where processes search in turn, each must be answered by one of the others in the end.
        """
        if self._closing:
            return
        self._closing = True
        _remove(self._path)
        self._wake.close()
        if self._accepting is not None:
            self._accepting.join()
        self._listener.close()
        self._waker.close()
        with self._left:
            ours = threading.current_thread().name == _SERVING  # where a guest asked us to make room
            self._left.wait_for(lambda: self._serving.total() <= ours, timeout=_LEAVING_S)


def _groups(user: int, group: int) -> Collection[int]:
    """All groups of a user, of which the socket tells only the first."""
    try:
        return os.getgrouplist(pwd.getpwuid(user).pw_name, group)
    except KeyError:  # nobody of this system, as out of a container
        return (group,)


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
    _ours.add(path)
    return listener, path


def remove_stale(address: str) -> None:
    """Remove the private folder that a killed holder listened in; what is no such folder is left alone."""
    path = Path(address)
    if path.name == _NAME and path.parent.parent == _runtime_folder() and path.parent.name.startswith(_PREFIX):
        _remove(path)


def _remove(path: Path) -> None:
    _ours.discard(path)
    with suppress(OSError):
        path.unlink(missing_ok=True)
        if path.parent.name.startswith(_PREFIX) and path.parent.parent == _runtime_folder():
            path.parent.rmdir()


@atexit.register
def _remove_all() -> None:
    for path in list(_ours):
        _remove(path)


def _runtime_folder() -> Path:
    """Where sockets of this user belong; in the folder for temporary files nobody but mkdtemp's owner gets in."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    return runtime if runtime.is_dir() else Path(tempfile.gettempdir())
