"""What a decoder may do to its process, and that the run, and the other files, don't mind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from earshot import Library
from engine.fakes import FakeEncoders
from indexer import decoding, hearing
from indexer.decoding import StoppedError, borrowed, end_workers
from tests.sounds import tone, write_sound

ROOT = Path(__file__).parents[2]
REASONS = {
    "segv": r"a file at which its decoder crashed (SIGSEGV); expected a file that can be decoded; convert it",
    "abort": r"a file at which its decoder crashed (SIGABRT)",
    "exit": r"a file at which its decoder ended (status 3)",
    "hang": r"a file at which its decoder worked for",
    "wait": r"a file of which nothing came for",
    "glut": r"a file to decode which takes more than 768 MiB; expected a file that takes less",
    "throw": r"a file at which its decoder failed (KeyError",
}


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Decode processes that load ``hooks``; ordinary ones again afterwards."""
    end_workers()
    monkeypatch.setattr(decoding, "_START", decoding._START.replace("from", "import tests.hostile.hooks; from", 1))
    yield
    end_workers()


def sounds(folder: Path, *names: str) -> Path:
    for n, name in enumerate(names):
        write_sound(folder / f"{name}.wav", tone(2.0, rate_hz=8000, hz=300.0 + 40 * n), rate_hz=8000)
    return folder


def children() -> set[int]:
    """The decode processes of this process."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == os.getpid() and b"indexer.decoding" in command:
                found.add(int(entry.name))
    return found


@pytest.mark.usefixtures("hooked")
@pytest.mark.parametrize("jobs", [1, 2])
def test_whatever_a_decoder_does_costs_one_file(tmp_path: Path, jobs: int):
    folder = sounds(tmp_path / "sounds", "first", *REASONS, "zlast")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        report = library.index([folder], jobs=jobs)
        assert report.indexed == 2
        reasons = {Path(path).stem: reason for path, reason in report.failed}
        assert reasons.keys() == REASONS.keys()
        for name, reason in REASONS.items():
            assert reasons[name].startswith(f"found {reason}")
            assert "; expected " in reasons[name]
        assert {Path(moment.path).stem for moment in library.search("band315", min_relevance=0)} == {"first", "zlast"}
        library.check()
        again = library.index([folder], jobs=jobs)
        assert [Path(path).stem for path, _ in again.failed] == ["wait"], "a disk may answer next time"
        assert again.skipped_failed == len(REASONS) - 1


def test_a_worker_serves_many_files_and_many_runs(tmp_path: Path):
    end_workers()
    folder = sounds(tmp_path / "sounds", "a", "b", "c")
    first: set[int] = set()
    for run in range(3):
        with Library(tmp_path / f"library-{run}", encoders=FakeEncoders()) as library:
            assert library.index([folder], jobs=1).indexed == 3
        first = first or children()
        assert children() == first
        assert len(first) == 1
    end_workers()
    assert children() == set()


def test_a_run_with_nothing_to_hear_starts_no_process(tmp_path: Path):
    folder = sounds(tmp_path / "sounds", "a")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([folder])
        end_workers()
        assert library.index([folder]).skipped == 1
        assert children() == set()


def test_a_worker_that_was_killed_while_it_waited_is_replaced(tmp_path: Path):
    folder = sounds(tmp_path / "sounds", "a", "b")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([folder / "a.wav"])
        for pid in children():
            os.kill(pid, signal.SIGKILL)
            while is_alive(pid):
                time.sleep(0.01)
        assert library.index([folder / "b.wav"]).failed == []


def test_an_answer_that_nobody_reads_is_not_taken_for_the_next(tmp_path: Path):
    folder = sounds(tmp_path, "short")
    write_sound(tmp_path / "long.wav", tone(300.0, rate_hz=8000), rate_hz=8000)
    with borrowed(bool) as worker:
        clip, _ = worker.open(folder / "long.wav", 8000)
        next(clip.blocks)
    with borrowed(bool) as worker:
        clip, _ = worker.open(folder / "short.wav", 8000)
        assert sum(map(len, clip.blocks)) == 16_000


def test_a_decode_process_that_cannot_start_ends_the_run_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    end_workers()
    monkeypatch.setattr(decoding, "_START", "raise SystemExit(7)")
    with (
        Library(tmp_path / "library", encoders=FakeEncoders()) as library,
        pytest.raises(Exception, match=r"ended at its start with status 7; expected .*EARSHOT_DEBUG"),
    ):
        library.index([sounds(tmp_path / "sounds", "a")])


@pytest.mark.usefixtures("hooked")
def test_ctrl_c_does_not_wait_for_a_decoder_that_hangs(tmp_path: Path):
    folder = sounds(tmp_path / "sounds", "wait")
    stop = threading.Event()
    with borrowed(stop.is_set) as worker:
        threading.Timer(0.3, stop.set).start()
        with pytest.raises(StoppedError):
            worker.open(folder / "wait.wav", 8000)
        assert not worker.alive


def test_ctrl_c_does_not_wait_for_the_hash_of_a_huge_file(tmp_path: Path):
    with (tmp_path / "huge.wav").open("wb") as file:
        file.truncate(1 << 40)  # sparse: hours of hashing
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(StoppedError):
        hearing.sha256_of(tmp_path / "huge.wav", stop.is_set)


RUN = """
import sys
from earshot import Library
from engine.fakes import FakeEncoders
with Library(sys.argv[1], encoders=FakeEncoders()) as library:
    library.index([sys.argv[2]], jobs=2, on_progress=lambda progress: print("going", flush=True))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_decode_process_outlives_a_run_that_is_ended(tmp_path: Path, end: signal.Signals):
    for n in range(2):
        write_sound(tmp_path / "sounds" / f"{n}.wav", tone(1200.0, rate_hz=8000, hz=300 + n), rate_hz=8000)
    command = [sys.executable, "-c", RUN, str(tmp_path / "library"), str(tmp_path / "sounds")]
    run = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True, start_new_session=True
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "going\n"
    workers = workers_of(run.pid)
    os.killpg(run.pid, end)  # as a terminal does
    run.stdout.close()
    run.wait(60)
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in workers)


def workers_of(parent: int) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        listed = Path(f"/proc/{parent}/task/{parent}/children")
        found = [int(pid) for task in listed.parents[1].iterdir() for pid in (task / "children").read_text().split()]
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("no decode process")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
