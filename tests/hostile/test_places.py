"""Folders with what is no file, and files that change under the run; the clock too."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from earshot import Library
from engine.fakes import FakeEncoders
from engine.types import Clip
from indexer import hearing
from indexer.decoding import Worker
from indexer.tags import Tags
from tests.indexer.bench import Bench
from tests.sounds import tone, write_sound


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    write_sound(tmp_path / "sounds" / "good.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    return tmp_path / "sounds"


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        yield library


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.ledger.close()


def names(library: Library) -> set[str]:
    """The names of all files found by a search, when memory and ledger agree."""
    library.check()
    moments = library.search("band500", k=1000, min_relevance=0)
    return {Path(path).name for moment in moments for path in moment.paths}


def test_an_empty_folder_is_an_empty_library(tmp_path: Path, library: Library):
    (tmp_path / "sounds" / "sub").mkdir(parents=True)
    report = library.index([tmp_path / "sounds"])
    assert (report.indexed, report.failed, report.left_out) == (0, [], {})
    assert names(library) == set()


def test_what_is_no_file_is_left_out_and_counted(sounds: Path, library: Library, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(sounds / "fifo.wav")
    monkeypatch.chdir(sounds)  # the path of a socket may be 108 bytes long
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.wav")
        (sounds / "loop").symlink_to(sounds)
        (sounds / "loop.wav").symlink_to(sounds / "loop.wav")
        (sounds / "broken.wav").symlink_to(sounds / "nothing.wav")
        report = library.index([sounds])
    assert (report.indexed, report.failed) == (1, [])
    assert report.left_out == {
        "a fifo": 1,
        "a socket": 1,
        "folder seen already": 1,
        "symlink loop": 1,
        "broken link or vanished": 1,
    }
    assert names(library) == {"good.wav"}


def test_hard_links_are_heard_once_under_all_names(sounds: Path, library: Library):
    os.link(sounds / "good.wav", sounds / "hard.wav")
    report = library.index([sounds])
    assert (report.indexed, report.copies, report.windows) == (2, 1, 3)
    assert names(library) == {"good.wav", "hard.wav"}


def test_a_file_without_permission_is_tried_again_by_every_run(
    sounds: Path, library: Library, monkeypatch: pytest.MonkeyPatch
):
    write_sound(sounds / "secret.wav", tone(2.0, rate_hz=8000, hz=600), rate_hz=8000)
    real = os.open

    def refusing(path: object, *args: int) -> int:
        if str(path).endswith("secret.wav"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)
    [(path, reason)] = library.index([sounds]).failed
    monkeypatch.undo()
    assert path.endswith("secret.wav")
    assert reason == "found Permission denied; expected a readable file; check the path and its permissions"
    assert library.index([sounds]).indexed == 1
    assert names(library) == {"good.wav", "secret.wav"}


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(16_000))


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace(path: Path) -> None:
    write_sound(path.with_name("other.tmp.wav"), tone(5.0, rate_hz=8000, hz=900), rate_hz=8000).rename(path)


def replace_by_text(path: Path) -> None:
    path.write_text("no sound any more")


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: list[Callable[[Path], None]] = [
    *(grow, shrink, Path.unlink, replace, replace_by_text, replace_by_folder, replace_by_fifo),
]


def changed_before(change: Callable[[Path], None], moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``changing.wav`` change at this moment of its hearing, once."""
    done: list[Path] = []

    def once(path: Path) -> None:
        if path.name == "changing.wav" and not done:
            done.append(path)
            change(path)

    hashing, opening = hearing.sha256_of, Worker.open

    def hashed(path: Path, stop: Callable[[], bool]) -> str:
        if moment == "hash":
            once(path)
        return hashing(path, stop)

    def opened(worker: Worker, path: Path, sample_rate_hz: int) -> tuple[Clip, Tags]:
        if moment == "open":
            once(path)
        clip, tags = opening(worker, path, sample_rate_hz)
        if moment == "read":
            once(path)
        return clip, tags

    monkeypatch.setattr(hearing, "sha256_of", hashed)
    monkeypatch.setattr(Worker, "open", opened)


@pytest.mark.parametrize("moment", ["hash", "open", "read"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changes_under_the_run_is_not_taken_for_what_it_was(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], moment: str
):
    bench.write("good.wav", 2.0)
    path = bench.write("changing.wav", 20.0, 700)
    changed_before(change, moment, monkeypatch)
    report = bench.index(jobs=1)
    monkeypatch.undo()
    [(failed, reason)] = report.failed
    assert failed == str(path)
    assert reason.startswith("found ")
    assert "; expected " in reason
    assert bench.paths() == [("good.wav",)]
    assert bench.memory.count() == bench.ledger.totals().windows
    assert [row.transient for row in bench.ledger.files(failed=True)] == [True]
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    bench.write("changing.wav", 3.0, 1000)
    assert bench.index().failed == []
    assert bench.paths() == [("changing.wav",), ("good.wav",)]


def test_a_folder_that_vanishes_under_the_run(sounds: Path, library: Library, monkeypatch: pytest.MonkeyPatch):
    write_sound(sounds / "a" / "changing.wav", tone(2.0, rate_hz=8000, hz=700), rate_hz=8000)
    for n in range(5):
        write_sound(sounds / "a" / f"later-{n}.wav", tone(2.0, rate_hz=8000, hz=800 + n), rate_hz=8000)
    changed_before(lambda path: shutil.rmtree(path.parent), "hash", monkeypatch)
    report = library.index([sounds], jobs=1)
    assert "good.wav" in names(library)
    assert len(report.failed) + report.indexed + report.left_out.get("broken link or vanished", 0) == 7


@pytest.mark.parametrize("mtime_s", [4_102_444_800, 0, -1_000_000_000], ids=["2100", "1970", "1938"])
def test_files_from_the_future_and_from_before_time(sounds: Path, library: Library, mtime_s: int):
    os.utime(sounds / "good.wav", (mtime_s, mtime_s))
    assert library.index([sounds]).indexed == 1
    assert library.index([sounds]).skipped == 1
    os.utime(sounds / "good.wav", (mtime_s - 10, mtime_s - 10))  # older than what is known: changed all the same
    report = library.index([sounds])
    assert (report.indexed, report.copies, report.windows) == (1, 1, 0)


def test_a_clock_that_goes_backwards_changes_nothing(sounds: Path, library: Library, monkeypatch: pytest.MonkeyPatch):
    for n in range(20):
        write_sound(sounds / f"{n}.wav", tone(2.0, rate_hz=8000, hz=300 + 20 * n), rate_hz=8000)
    now = [2_000_000_000.0]

    def backwards() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    report = library.index([sounds])
    assert (report.indexed, report.failed) == (21, [])
    assert 0 < report.wall_s < 1000
    assert len(names(library)) == 21
    assert library.index([sounds]).skipped == 21
