"""`earshot copy`: nothing lost, nothing doubled, nothing heard again, whatever comes between."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from earshot import Library
from earshot.copying import COPY, CopyProgress, copy_library
from earshot.keep import FolderKeep
from engine.errors import LibraryBusyError, LibraryError, MemoryStoreError, SpaceMismatchError
from engine.fakes import FakeEncoders
from engine.memory.edge import EdgeMemory
from engine.types import Point
from indexer import transfer
from indexer.ledger import Ledger
from indexer.payload import of_contents
from tests.sounds import tone, write_sound

SPACE = FakeEncoders().space


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for number in range(12):
        samples = tone(1.0 + number % 5, rate_hz=8000, hz=100.0 * (1 + number))
        write_sound(tmp_path / "sounds" / f"{number:02}.wav", samples, rate_hz=8000)
    shutil.copy(tmp_path / "sounds" / "03.wav", tmp_path / "sounds" / "copy of 03.wav")
    shutil.copy(tmp_path / "sounds" / "04.wav", os.fsencode(tmp_path / "sounds") + b"/\xff.wav")
    (tmp_path / "sounds" / "broken.wav").write_text("no sound")
    return tmp_path / "sounds"


@pytest.fixture
def source(tmp_path: Path, sounds: Path) -> Path:
    index(tmp_path / "source", sounds)
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def index(library: Path, sounds: Path, **options: Any) -> None:
    with Library(library, encoders=FakeEncoders()) as opened:
        opened.index([sounds], **options)


def state(library: Path) -> tuple[Any, ...]:
    """All that a library holds: files, contents, settings, and every point with its vector."""
    ledger = Ledger(library / "ledger.sqlite")
    rows = [ledger._all(f"SELECT * FROM {table} ORDER BY 1") for table in ("files", "contents")]
    settings = [row for row in ledger._all("SELECT * FROM settings ORDER BY 1") if row[0] != COPY]
    ledger.close()
    with EdgeMemory(library / "memory" / "sounds") as memory:
        memory.ensure_space(SPACE.space_id, SPACE.dim)
        points = {r.id: (r.payload, np.asarray(r.vector).tobytes()) for r in memory.scroll(with_vectors=True)}
    return (*rows, settings, points)


def answers(library: Path) -> list[Any]:
    with Library(library, encoders=FakeEncoders(), create=False) as opened:
        found = [opened.search(f"band{hz}", k=20, min_relevance=0) for hz in (125, 500, 1000)]
        return [found, [(row.path, row.reason) for row in opened.failed()]]


def is_whole(library: Path) -> bool:
    ledger = Ledger(library / "ledger.sqlite")
    copy = ledger.setting(COPY)
    ledger.close()
    return bool(copy["whole"])


def test_a_copy_holds_and_answers_the_same(source: Path, target: Path) -> None:
    before = state(source)
    steps: list[CopyProgress] = []
    report = copy_library(source, target, on_progress=steps.append)
    assert state(target) == state(source) == before
    assert answers(target) == answers(source)
    windows = len(before[3])
    assert (report.files, report.failed, report.windows, report.written) == (14, 1, windows, windows)
    assert report.searches == transfer.ASKED
    assert steps[-1] == CopyProgress("comparing", windows, windows)
    assert {step.step for step in steps} == {"copying", "indexing", "comparing"}


def test_nothing_is_heard_again_in_a_copy(source: Path, target: Path, sounds: Path) -> None:
    copy_library(source, target)
    with Library(target, encoders=FakeEncoders()) as library:
        report = library.index([sounds])
        assert (report.indexed, report.windows, report.skipped, report.skipped_failed) == (0, 0, 15, 1)


def test_a_copy_is_brought_up_to_date(source: Path, target: Path, sounds: Path) -> None:
    copy_library(source, target)
    assert copy_library(source, target).written == 0
    (sounds / "00.wav").rename(sounds / "renamed.wav")
    (sounds / "01.wav").unlink()
    write_sound(sounds / "new.wav", tone(3.0, rate_hz=8000, hz=77), rate_hz=8000)
    index(source, sounds, prune=True)
    report = copy_library(source, target)
    assert 0 < report.written < report.windows
    assert state(target) == state(source)


def test_a_copy_of_a_copy_is_one_of_its_own(source: Path, target: Path, tmp_path: Path) -> None:
    copy_library(source, target)
    copy_library(target, tmp_path / "third")
    assert state(tmp_path / "third") == state(source)


def test_a_library_that_never_heard_anything(tmp_path: Path, target: Path) -> None:
    Library(tmp_path / "empty", encoders=FakeEncoders()).close()
    report = copy_library(tmp_path / "empty", target)
    assert (report.files, report.windows) == (0, 0)
    with Library(target, encoders=FakeEncoders()) as copy:
        assert copy.space_id == SPACE.space_id
    assert copy_library(tmp_path / "empty", target).windows == 0


def test_what_a_killed_run_left_half_heard_stays_behind(source: Path, target: Path) -> None:
    ledger = Ledger(source / "ledger.sqlite")
    ledger.announce("half")
    ledger.close()
    with EdgeMemory(source / "memory" / "sounds") as memory:
        memory.ensure_space(SPACE.space_id, SPACE.dim)
        payload = {"sha256": "half", "window": 0, "paths": ["/half.wav"]}
        memory.upsert([Point("0" * 8 + "-0000-0000-0000-" + "0" * 12, np.eye(SPACE.dim, dtype=np.float32)[0], payload)])
    copy_library(source, target)
    with EdgeMemory(source / "memory" / "sounds") as memory:
        memory.ensure_space(SPACE.space_id, SPACE.dim)
        assert memory.count(of_contents("half")) == 1, "the source is only read"
    answers(source)  # tidies it
    assert state(target) == state(source)


# What is refused


def test_only_a_place_without_a_library_or_a_copy_of_the_same_is_taken(
    source: Path, target: Path, sounds: Path, tmp_path: Path
) -> None:
    index(target, sounds)
    before = state(target)
    with pytest.raises(LibraryError, match=r"found a library in .*14 files and .*expected an empty place"):
        copy_library(source, target)
    copy_library(source, tmp_path / "copy")
    with pytest.raises(LibraryError, match=f"found a copy of {source} in"):
        copy_library(target, tmp_path / "copy")
    assert state(target) == before


def test_a_copy_that_was_indexed_into_is_a_library_of_its_own(source: Path, target: Path, sounds: Path) -> None:
    copy_library(source, target)
    index(target, sounds)
    with pytest.raises(LibraryError, match="expected an empty place"):
        copy_library(source, target)


def test_vectors_without_a_ledger_are_somebodys(source: Path, target: Path, sounds: Path) -> None:
    index(target, sounds)
    for ledger in target.glob("ledger.sqlite*"):
        ledger.unlink()
    with pytest.raises(LibraryError, match="something else in it"):
        copy_library(source, target)


def test_another_space_is_refused_with_both_names(source: Path, target: Path, sounds: Path) -> None:
    with Library(target, encoders=FakeEncoders("other")) as other:
        other.index([sounds])
    with pytest.raises(SpaceMismatchError, match=r"other@.*fake@"):
        copy_library(source, target)


def test_no_library_and_the_same_library_twice(source: Path, target: Path) -> None:
    with pytest.raises(LibraryError, match="no library in"):
        copy_library(target, source)
    assert not target.exists()
    with pytest.raises(LibraryError, match="twice"):
        copy_library(source, source.parent / "elsewhere" / ".." / source.name)


@pytest.mark.parametrize("inside", ["memory/sounds/inner.shard", "backup", ".."])
def test_a_copy_in_its_source_or_around_it_is_refused(source: Path, inside: str) -> None:
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(LibraryError, match="lies in the other"):
        copy_library(source, source / inside)
    assert sorted(source.parent.rglob("*")) == before


def test_a_folder_with_something_else_in_it_is_left_alone(source: Path, target: Path, sounds: Path) -> None:
    before = sorted(sounds.iterdir())
    with pytest.raises(LibraryError, match="something else in it"):
        copy_library(source, sounds)
    assert sorted(sounds.iterdir()) == before
    (target / "file").parent.mkdir()
    assert copy_library(source, target).files == 14, "an empty one is fine"
    with pytest.raises(LibraryError, match="Not a directory"):
        copy_library(source, next(sounds.iterdir()))


def test_a_memory_that_has_lost_windows_is_not_copied(source: Path, target: Path) -> None:
    with EdgeMemory(source / "memory" / "sounds") as memory:
        memory.ensure_space(SPACE.space_id, SPACE.dim)
        memory.delete(of_contents(next(memory.scroll()).payload["sha256"]))
    with pytest.raises(LibraryError, match="as its ledger says"):
        copy_library(source, target)
    shutil.rmtree(source / "memory")
    with pytest.raises(LibraryError, match="found 0 windows"):
        copy_library(source, target)
    assert not target.exists()


def test_a_ledger_that_was_lost_is_made_anew_first(source: Path, target: Path) -> None:
    for path in source.glob("ledger.sqlite*"):
        path.unlink()
    with pytest.raises(LibraryError, match=r"a memory without its ledger.*earshot repair"):
        copy_library(source, target)
    Ledger(source / "ledger.sqlite").close()
    with pytest.raises(LibraryError, match=r"an empty ledger in .*earshot repair"):
        copy_library(source, target)
    assert not target.exists()


@pytest.mark.parametrize("busy", ["source", "target"])
def test_while_somebody_writes_it_waits_and_says_for_whom(source: Path, target: Path, busy: str) -> None:
    copy_library(source, target)
    keep = FolderKeep(source if busy == "source" else target)
    with (
        keep.writing(SPACE, lambda _: None, 0, lambda _: None),
        pytest.raises(LibraryBusyError, match=str(os.getpid())),
    ):
        copy_library(source, target, wait_s=0.1)
    keep.close()
    copy_library(source, target)


# What comes between


class CutError(Exception):
    """Ends a copy where a test wants it to."""


def cut_after(windows: int) -> Callable[[CopyProgress], None]:
    def cut(progress: CopyProgress) -> None:
        if progress.done >= windows:
            raise CutError

    return cut


def test_an_unfinished_copy_is_opened_by_nobody_else(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "AT_ONCE", 4)
    with pytest.raises(CutError):
        copy_library(source, target, on_progress=cut_after(9))
    assert not is_whole(target)
    with pytest.raises(LibraryError, match=f"an unfinished copy of {source}.*earshot copy"):
        Library(target, encoders=FakeEncoders())
    with pytest.raises(LibraryError, match="an unfinished copy"):
        copy_library(target, tmp_path / "third")
    report = copy_library(source, target)
    assert 0 < report.written < report.windows
    assert state(target) == state(source)
    assert is_whole(target)


def test_what_changed_between_two_attempts_is_right_after_the_second(
    source: Path, target: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "AT_ONCE", 4)
    with pytest.raises(CutError):
        copy_library(source, target, on_progress=cut_after(20))
    for path in sounds.glob("0[5-9].wav"):
        path.unlink()
    (sounds / "00.wav").rename(sounds / "renamed.wav")
    write_sound(sounds / "new.wav", tone(3.0, rate_hz=8000, hz=77), rate_hz=8000)
    ledger = Ledger(source / "ledger.sqlite")
    for path in (*(sounds / f"0{n}.wav" for n in range(5, 10)), sounds / "00.wav"):
        ledger.forget_path(path)
    ledger.close()
    index(source, sounds)
    copy_library(source, target)
    assert state(target) == state(source)


def test_a_full_disk_ends_it_and_the_same_command_goes_on(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "AT_ONCE", 4)
    upsert, room = EdgeMemory.upsert, iter([True] * 3)

    def full(memory: EdgeMemory, points: list[Point]) -> None:
        if next(room, None) is None:
            raise MemoryStoreError("0 MiB free on the disk", "at least 256 MiB", "free some space")
        upsert(memory, points)

    with monkeypatch.context() as patch:
        patch.setattr(EdgeMemory, "upsert", full)
        with pytest.raises(MemoryStoreError, match="free some space"):
            copy_library(source, target)
    assert not is_whole(target)
    report = copy_library(source, target)
    assert report.windows - report.written == 12
    assert state(target) == state(source)


def test_a_disk_that_is_full_for_the_ledger(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(ledger: Ledger, *_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "adopt", full)
        with pytest.raises(sqlite3.OperationalError):
            copy_library(source, target)
    assert not is_whole(target)
    assert copy_library(source, target).written == 0
    assert state(target) == state(source)


@pytest.mark.parametrize("damage", ["payload", "missing", "extra", "vector"])
def test_a_copy_that_differs_is_an_error(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Something goes wrong in the target's memory after all was written."""
    flush = EdgeMemory.flush

    def damaged(memory: EdgeMemory) -> None:
        if str(memory.folder).startswith(str(target)):
            record = next(memory.scroll(with_vectors=True))
            assert record.vector is not None
            where = of_contents(record.payload["sha256"])
            if damage == "payload":
                memory.set_payload(where, {"title": "another"})
            elif damage == "missing":
                memory.delete(where)
            elif damage == "extra":
                memory.upsert([Point("f" * 8 + "-0000-0000-0000-" + "0" * 12, record.vector, record.payload)])
            else:
                memory.upsert([Point(r.id, -r.vector, r.payload) for r in memory.scroll(with_vectors=True)])
        flush(memory)

    with monkeypatch.context() as patch:
        patch.setattr(EdgeMemory, "flush", damaged)
        with pytest.raises(LibraryError, match="the copy") as caught:
            copy_library(source, target)
    assert "do the same again" in str(caught.value)
    assert not is_whole(target)


# In a process of its own

RUN = """
import sys
from earshot import cli
from engine.memory.edge import EdgeMemory
from indexer import transfer

transfer.AT_ONCE = 2
upsert = EdgeMemory.upsert

def announced(memory, points):
    upsert(memory, points)
    print("written", flush=True)
    sys.stdin.readline()

EdgeMemory.upsert = announced
sys.argv = ["earshot", "copy", *sys.argv[1:]]
cli.main()
"""


def start(source: Path, target: Path, writes: int) -> subprocess.Popen[str]:
    """`earshot copy`, just after its n-th write, where it waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(source), str(target)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n" * (writes - 1))
    process.stdin.flush()
    for _ in range(writes):
        assert process.stdout.readline() == "written\n"
    return process


def test_killed_between_writes_and_in_the_middle_of_one(source: Path, target: Path) -> None:
    chance, left = random.Random(3), state(source)[3]
    for number in range(6):
        process = start(source, target, 2)
        assert process.stdin is not None
        if number % 2:
            process.stdin.write("\n\n")
            process.stdin.flush()
            time.sleep(chance.uniform(0, 0.005))
        process.kill()
        process.communicate(timeout=60)
        assert not is_whole(target)
    report = copy_library(source, target)
    assert 0 < report.written <= len(left) - 6 * 2 * 2, "every attempt went on where the one before it was"
    assert state(target) == state(source)
    assert answers(target) == answers(source)


def test_searches_go_on_meanwhile_and_indexing_waits(source: Path, target: Path, sounds: Path) -> None:
    before = answers(source)
    process = start(source, target, 2)
    assert answers(source) == before
    with Library(source, encoders=FakeEncoders()) as library, pytest.raises(LibraryBusyError, match=str(process.pid)):
        library.index([sounds], wait_s=0.1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "windows written, the others were there; 14 files, 1 that could not be heard" in out
    assert state(target) == state(source)


def test_ctrl_c_leaves_things_whole(source: Path, target: Path) -> None:
    before = state(source)
    process = start(source, target, 2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (
        130,
        "",
        "Stopped: nothing is lost, the same command goes on from here.\n",
    )
    assert copy_library(source, target).written == len(before[3]) - 4
    assert state(target) == state(source) == before
