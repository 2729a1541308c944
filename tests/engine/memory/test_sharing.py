"""Guests of a memory: what they may ask, what they may not, and what becomes of bad ones. The answers themselves are
checked by the contract suite."""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import LibraryError, MemoryStoreError, QueryError, SpaceMismatchError
from engine.memory import guest as guests
from engine.memory import host as hosts
from engine.memory import wire
from engine.memory.exact import ExactMemory
from engine.memory.guest import GuestMemory, HolderGoneError, HolderStuckError
from engine.memory.host import Host, remove_stale
from engine.types import Clause, Filter, Point, Record, point_id

SPACE, DIM = "tiny/model@0123456789ab", 8


def points(count: int, text: str = "") -> list[Point]:
    vectors = np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)
    return [Point(point_id("a", SPACE, i), v, {"window": i, "title": text}) for i, v in enumerate(vectors)]


@contextmanager
def hosted(folder: Path, memory: Any = None, let_in: bool = False) -> Iterator[Host]:
    if memory is None:
        memory = ExactMemory()
        memory.ensure_space(SPACE, DIM)
        memory.upsert(points(100))
    host = Host(folder, 0o644, lambda: let_in)
    host.serve(memory, (SPACE, DIM))
    try:
        yield host
    finally:
        host.close()


def guest_of(host: Host, folder: Path) -> GuestMemory:
    guest = GuestMemory(folder / host.address)
    guest.ensure_space(SPACE, DIM)
    return guest


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with hosted(tmp_path) as host:
        yield host


@pytest.fixture
def guest(host: Host, tmp_path: Path) -> GuestMemory:
    return guest_of(host, tmp_path)


def connected(host: Host, folder: Path) -> socket.socket:
    to = socket.socket(socket.AF_UNIX)
    to.settimeout(20)
    to.connect(str(folder / host.address))
    return to


def test_writing_is_refused(guest: GuestMemory) -> None:
    where = Filter((Clause("window", "=", 1.0),))
    for write in (
        lambda: guest.upsert(points(1)),
        lambda: guest.delete(where),
        lambda: guest.set_payload(where, {"title": "x"}),
        guest.optimise,
    ):
        with pytest.raises(MemoryStoreError, match="only reading"):
            write()
    assert guest.count() == 100


def test_errors_arrive_as_what_they_were(tmp_path: Path) -> None:
    class Failing:
        def count(self, where: Filter) -> int:
            raise [ValueError("k is -1"), QueryError("a", "b", "c"), KeyError("deep inside")][where.clauses[0].value]

    with hosted(tmp_path, Failing()) as host:
        guest = guest_of(host, tmp_path)
        for number, (kind, text) in enumerate(
            [
                (ValueError, "^k is -1$"),
                (QueryError, "^found a; expected b; c$"),
                (MemoryStoreError, "KeyError in the process asked: 'deep inside'"),
            ]
        ):
            with pytest.raises(kind, match=text):
                guest.count(Filter((Clause("window", "=", number),)))


def test_another_space_is_refused_with_both_names(host: Host, tmp_path: Path) -> None:
    with pytest.raises(SpaceMismatchError, match=r"tiny/model@0123456789ab \(8 .*other \(9"):
        GuestMemory(tmp_path / host.address).ensure_space("other", 9)


def test_a_guest_of_another_version_is_told(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "PROTOCOL", 1)
    with pytest.raises(LibraryError, match=rf"version 1 to process {os.getpid()}.*expected version 2; use the same"):
        GuestMemory(tmp_path / host.address).ensure_space(SPACE, DIM)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack("!II", 2**32 - 1, 0),
        struct.pack("!II", 2, 2**31),
        struct.pack("!II", 4, 0) + b"[1]]",
        struct.pack("!II", 3, 0) + b"[1]",
        struct.pack("!II", 2, 3) + b"{}abc",
        struct.pack("!II", 100, 0) + b"{",
    ],
)
def test_what_is_no_question_gets_no_answer(sent: bytes, host: Host, guest: GuestMemory, tmp_path: Path) -> None:
    with connected(host, tmp_path) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
    assert guest.count() == 100


@pytest.mark.parametrize(
    "question",
    [
        {"protocol": wire.PROTOCOL},
        {"protocol": wire.PROTOCOL, "ask": "upsert", "space": [SPACE, DIM]},
        {"protocol": wire.PROTOCOL, "ask": "_close", "space": [SPACE, DIM]},
        {"protocol": wire.PROTOCOL, "ask": "count", "space": [SPACE, DIM], "where": [["window", "__eq__", 1]]},
        {"protocol": wire.PROTOCOL, "ask": "count", "space": [SPACE, DIM], "where": 7},
    ],
)
def test_what_cannot_be_asked_is_an_error(question: dict[str, Any], host: Host, tmp_path: Path) -> None:
    with connected(host, tmp_path) as stranger:
        wire.send(stranger, question)
        with pytest.raises((MemoryStoreError, QueryError)):
            list(wire.answered(stranger))


def test_guests_that_are_stuck_hold_up_nobody(host: Host, guest: GuestMemory, tmp_path: Path) -> None:
    """Some ask nothing for a while; when there are too many, the next are sent away until one has gone."""
    silent = [connected(host, tmp_path) for _ in range(10)]
    assert guest.count() == 100
    silent += [connected(host, tmp_path) for _ in range(hosts._MOST_GUESTS)]
    with pytest.raises(HolderGoneError):
        guest.count()
    for one in silent:
        one.close()
    moment = threading.Event()
    for _ in range(200):
        with suppress(HolderGoneError):
            assert guest.count() == 100
            return
        moment.wait(0.05)
    pytest.fail("the host did not notice that they had gone")


def test_who_asks_nothing_is_sent_away_soon(
    host: Host, guest: GuestMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one who sends a byte now and then."""
    monkeypatch.setattr(hosts, "_ASKING_S", 0.2)
    with connected(host, tmp_path) as slow, suppress(BrokenPipeError, ConnectionResetError):
        for byte in struct.pack("!II", 1000, 0) + b" " * 1000:
            slow.sendall(bytes([byte]))
            threading.Event().wait(0.02)
        pytest.fail("it was heard to the end")
    assert guest.count() == 100


def from_user(monkeypatch: pytest.MonkeyPatch, user: int, group: int) -> None:
    """From here on the holder runs as another user, to whom we look like this."""
    monkeypatch.setattr(hosts, "_PEER", Peer(user, group))
    monkeypatch.setattr("engine.memory.host.os.geteuid", lambda: 7)


class Peer:
    size = 12

    def __init__(self, user: int, group: int) -> None:
        self._who = user, group

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return 1, *self._who


def test_guests_of_another_user_leave_room_for_ours(
    host: Host, guest: GuestMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_user(monkeypatch, 54321, 54321)
    silent = [connected(host, tmp_path) for _ in range(hosts._MOST_STRANGERS)]
    with pytest.raises(HolderGoneError):
        guest.count()
    from_user(monkeypatch, 7, 7)
    assert guest.count() == 100
    for one in silent:
        one.close()


def test_a_question_is_small(host: Host, guest: GuestMemory, tmp_path: Path) -> None:
    """However many filters it has: they are asked in parts. A single one that is too large is said."""
    wheres = [Filter((Clause("title", "=", "x" * 5000), Clause("window", "=", n % 100))) for n in range(2500)]
    assert guest.search_many(points(1)[0].vector, 1, wheres) == [[]] * 2500
    some = [Filter((Clause("window", "=", n % 100),)) for n in range(2500)]
    found = guest.search_many(points(1)[0].vector, 1, some)
    assert [hits[0].payload["window"] for hits in found] == [n % 100 for n in range(2500)]
    with pytest.raises(MemoryStoreError, match=f"at most {wire.MOST_ASKED_BYTES}"):
        guest.count(Filter((Clause("title", "=", "x" * wire.MOST_ASKED_BYTES),)))
    with connected(host, tmp_path) as stranger:
        stranger.sendall(struct.pack("!II", wire.MOST_ASKED_BYTES + 1, 0))
        assert stranger.recv(1) == b""


def test_an_answer_comes_in_pieces_and_may_be_left(tmp_path: Path) -> None:
    """20 MB of text, of which nobody holds more than a piece, and an abandoned reading does no harm."""
    memory = ExactMemory()
    memory.ensure_space(SPACE, DIM)
    memory.upsert(points(2000, "x" * 10_000))
    with hosted(tmp_path, memory) as host:
        guest = guest_of(host, tmp_path)
        records = guest.scroll(with_vectors=True)
        assert next(records).payload["window"] is not None
        del records
        whole = list(guest.scroll(with_vectors=True))
        expected = list(memory.scroll(with_vectors=True))
        assert [(r.id, r.payload) for r in whole] == [(r.id, r.payload) for r in expected]
        np.testing.assert_array_equal([r.vector for r in whole], [r.vector for r in expected])
        assert len(guest.search(points(1)[0].vector, 2000)) == 2000


def test_more_than_fits_a_frame_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_BYTES", 100_000)
    memory = ExactMemory()
    memory.ensure_space(SPACE, DIM)
    memory.upsert(points(1, "x" * 200_000))
    with hosted(tmp_path, memory) as host, pytest.raises(MemoryStoreError, match="at most 100000"):
        list(guest_of(host, tmp_path).scroll())


def test_a_holder_that_ends_is_noticed_before_and_during_an_answer(tmp_path: Path) -> None:
    class Ending(ExactMemory):
        def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
            yield Record("0" * 32, {"title": "x" * 2_000_000})
            host.close()
            raise MemoryStoreError("a closed memory", "an open one")

    with hosted(tmp_path, Ending()) as host:
        guest = guest_of(host, tmp_path)
        records = guest.scroll()
        next(records)
        with pytest.raises(HolderGoneError):
            next(records)
        with pytest.raises(HolderGoneError):
            guest.count()
        assert not (tmp_path / host.address).exists()


def test_a_holder_that_is_stopped_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "_HELLO_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "socket"))
        silent.listen()
        with pytest.raises(HolderStuckError, match="does not answer"):
            GuestMemory(tmp_path / "socket").ensure_space(SPACE, DIM)


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o640, 0o660), (0o644, 0o666), (0o660, 0o660)])
def test_who_may_read_the_library_may_ask(mode: int, expected: int, tmp_path: Path) -> None:
    host = Host(tmp_path, mode, lambda: False)
    assert stat.S_IMODE((tmp_path / host.address).stat().st_mode) == expected
    host.close()


def test_a_folder_too_deep_for_a_socket_gets_a_private_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    with hosted(deep) as host:
        private = Path(host.address)
        assert private.parent.parent == runtime
        assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
        assert guest_of(host, deep).count() == 100
    assert list(runtime.iterdir()) == []
    with hosted(deep) as killed:
        left = Path(killed.address)
        for harmless in ("socket", str(tmp_path / "socket"), "/etc/passwd", str(runtime / "x" / "socket")):
            remove_stale(harmless)
        assert left.exists()
        remove_stale(str(left))
        assert list(runtime.iterdir()) == []
    runtime.rmdir()


def test_the_socket_of_a_killed_holder_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "socket"))
    with hosted(tmp_path) as host:
        assert guest_of(host, tmp_path).count() == 100


@pytest.mark.parametrize(
    ("mode", "user", "group", "may_write"),
    [
        (0o644, 54321, 54321, False),
        (0o644, 54321, os.getgid(), False),
        (0o664, 54321, 54321, False),
        (0o664, 54321, os.getgid(), True),
        (0o666, 54321, 54321, True),
        (0o600, 7, 7, True),
        (0o600, 0, 0, True),
    ],
)
def test_only_who_may_write_is_let_in(
    mode: int, user: int, group: int, may_write: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = ExactMemory()
    memory.ensure_space(SPACE, DIM)
    host = Host(tmp_path, mode, lambda: True)
    host.serve(memory, (SPACE, DIM))
    guest = guest_of(host, tmp_path)
    from_user(monkeypatch, user, group)
    if may_write:
        assert guest.ask_to_be_let_in()
    else:
        with pytest.raises(LibraryError, match="may only read"):
            guest.ask_to_be_let_in()
    assert guest.count() == 0
    host.close()


def test_a_writer_is_let_in_or_not(tmp_path: Path) -> None:
    for let_in in (True, False):
        with hosted(tmp_path, let_in=let_in) as host:
            assert guest_of(host, tmp_path).ask_to_be_let_in() is let_in
