"""Two libraries in one folder, in one process: what becomes of the lock, of readings under way, of holders afar."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from earshot import Library
from earshot.keep import FolderKeep
from earshot.lock import LibraryLock, holder_of
from earshot.sharing import Sharing
from engine.errors import LibraryBusyError, LibraryError, MemoryStoreError
from engine.fakes import FakeEncoders
from engine.memory.base import Memory
from engine.memory.edge_rebuild import copy_shard
from engine.types import Clause, Filter, Point, point_id

SPACE = FakeEncoders().space
ONE = Filter((Clause("window", "=", 1.0),))


def nothing(_: object) -> None:
    """Neither tidied nor told."""


def points(count: int) -> list[Point]:
    [vector] = FakeEncoders().encode_text(["band500"])
    return [Point(point_id("a", SPACE.space_id, n), vector, {"window": n}) for n in range(count)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keep = FolderKeep(tmp_path_factory.mktemp("written"))
    with keep.writing(SPACE, nothing, 0.0, nothing) as memory:
        memory.upsert(points(1000))
    keep.close()
    return keep.folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    copy_shard(written, tmp_path / "library")
    return tmp_path / "library"


def test_the_first_to_read_holds_it_until_somebody_writes(folder: Path) -> None:
    first, second = FolderKeep(folder), FolderKeep(folder)
    with first.reading(SPACE, nothing) as one, second.reading(SPACE, nothing) as two:
        assert one.count() == two.count() == 1000
        assert (one.shared, two.shared) == (False, True)
        with second.writing(SPACE, nothing, 10.0, nothing) as memory:
            memory.delete(ONE)
            assert one.count() == two.count() == 999
            assert (one.shared, two.shared) == (True, True)
            holder = holder_of(folder)
            assert holder
            assert holder.doing == "indexing"
            with (
                pytest.raises(LibraryBusyError, match=f"process {os.getpid()} on {platform.node()}, indexing"),
                first.writing(SPACE, nothing, 0.1, nothing),
            ):
                pass
        assert (one.shared, two.shared) == (True, False)
    second.close()
    assert one.count() == 999, "nobody else holds it any more"
    assert one.shared is False
    first.close()


def test_a_reader_does_not_write(folder: Path) -> None:
    keep = FolderKeep(folder)
    with keep.reading(SPACE, nothing) as memory:
        for write in (lambda: memory.upsert(points(1)), lambda: memory.delete(ONE), memory.optimise):
            with pytest.raises(MemoryStoreError, match="only reading"):
                write()
    keep.close()


@pytest.mark.parametrize("holding", [True, False])
def test_a_reading_goes_on_in_the_hands_of_another(folder: Path, holding: bool) -> None:
    """It began with our own memory, or with that of another process; every record comes once, and in order."""
    ours, other = FolderKeep(folder), FolderKeep(folder)
    with ours.reading(SPACE, nothing) as memory, other.reading(SPACE, nothing) as elsewhere:
        assert (memory if holding else elsewhere).count() == 1000
        records = memory.scroll(with_vectors=True)
        seen = [next(records).id for _ in range(300)]
        with (other if holding else ours).writing(SPACE, nothing, 10.0, nothing):
            seen += [next(records).id for _ in range(300)]
        (other if holding else ours).close()
        seen += [record.id for record in records]
    assert seen == sorted(point.id for point in points(1000))
    ours.close()
    other.close()


def test_two_threads_of_one_library_take_turns_at_writing(folder: Path) -> None:
    keep = FolderKeep(folder)
    with (
        keep.writing(SPACE, nothing, 0.0, nothing),
        pytest.raises(LibraryBusyError),
        keep.writing(SPACE, nothing, 0.1, nothing),
    ):
        pass
    with keep.writing(SPACE, nothing, 0.1, nothing) as memory:
        assert memory.count() == 1000
    keep.close()


FORGETFUL = """
import atexit, os, sys
from earshot import Library
from engine.fakes import FakeEncoders

folder = sys.argv[1]
library = Library(folder, encoders=FakeEncoders())
library.search("band500")
if os.fork() == 0:
    atexit._run_exitfuncs()  # the library is its parent's
    os._exit(0)
os.wait()
print(sorted(os.listdir(folder)))
"""


def test_a_program_that_forgets_to_close_leaves_no_socket_behind(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    command = [sys.executable, "-c", FORGETFUL, str(folder)]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "'socket'" in said
    assert not (folder / "socket").exists()


def test_what_cannot_be_opened_is_let_go_of(folder: Path) -> None:
    def fails(_: Memory) -> None:
        raise LibraryError("a fault")

    keep = FolderKeep(folder)
    with keep.reading(SPACE, fails) as memory, pytest.raises(LibraryError, match="a fault"):
        memory.count()
    assert not (folder / "socket").exists()
    lock = LibraryLock.take(folder)
    assert lock
    lock.release()
    with keep.reading(SPACE, nothing) as memory:
        assert memory.count() == 1000
    keep.close()


@pytest.mark.parametrize("address", [None, "socket"])
def test_a_holder_on_another_machine_is_named(
    folder: Path, address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its socket, if it can be seen at all on a network disk, leads nowhere."""
    monkeypatch.setattr("earshot.sharing.WAIT_S", 0.1)
    lock = LibraryLock.take(folder)
    assert lock
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(platform, "node", lambda: "studio-2")
        lock.say("searching", address)
    keep = FolderKeep(folder)
    with keep.reading(SPACE, nothing) as memory, pytest.raises(LibraryBusyError, match=r"on studio-2.*one machine"):
        memory.count()
    lock.release()
    keep.close()


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ('{"pid": 7, "host": "studio"}', "held by process 7 on studio;"),
        ("", "held by another process;"),
        ("[1]", "held by another process;"),
    ],
)
def test_a_holder_that_says_little_is_waited_for_all_the_same(
    folder: Path, said: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As earshot 0.1.0 does, or somebody who is about to say more."""
    monkeypatch.setattr("earshot.sharing.WAIT_S", 0.1)
    monkeypatch.setattr(platform, "node", lambda: "studio")
    lock = LibraryLock.take(folder)
    assert lock
    (folder / "lock").write_text(said)
    keep = FolderKeep(folder)
    with keep.reading(SPACE, nothing) as memory, pytest.raises(LibraryBusyError, match=named):
        memory.count()
    lock.release()
    keep.close()


def test_a_folder_without_locks_is_said(folder: Path) -> None:
    (folder / "lock").unlink()
    (folder / "lock").mkdir()
    with pytest.raises(LibraryError, match=r"lock: Is a directory.*make it writable"):
        Sharing(folder, folder / "memory" / "sounds").ask(SPACE, nothing, lambda memory: memory.count())


def test_a_library_in_a_deep_folder_is_shared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with Library(deep, encoders=FakeEncoders()) as first, Library(deep, encoders=FakeEncoders()) as second:
        assert first.search("band500") == second.search("band500") == []
        holder = holder_of(deep)
        assert holder
        assert holder.address is not None
        assert holder.address.startswith(f"{tmp_path}/earshot-")
    assert list(tmp_path.glob("earshot-*")) == []
