"""Several processes and one library in a folder: all of them search, one of them indexes, and any may be killed.

What a process does and when is told by lines between it and the test, never by time: it says ``busy`` when it is in
the middle of its work, and goes on when it is told to.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from earshot import Library
from earshot.lock import LibraryLock, holder_of
from engine.errors import LibraryBusyError
from engine.fakes import FakeEncoders
from engine.memory.wire import PROTOCOL
from tests.engine.memory.test_edge_optimise import Builder
from tests.sounds import noise, tone, write_sound

ROOT = Path(__file__).parents[2]
FILES, BANDS = 48, (63, 125, 250, 500, 1000, 2000)
START = """
import sys, time
from pathlib import Path
from earshot import Library
from engine.fakes import FakeEncoders

def pause():
    print("busy", flush=True)
    sys.stdin.readline()

def found(library, words):
    return len(library.search(words, k=100))

library = Library(sys.argv[1], encoders=FakeEncoders())
"""
SEARCH = START + "print(found(library, sys.argv[2]), flush=True); pause(); library.close()"
SEARCH_OFTEN = (
    START
    + """
library.close()
for word in sys.argv[2:] * 3:
    with Library(sys.argv[1], encoders=FakeEncoders()) as library:
        print(found(library, word), flush=True)
"""
)
INDEX = (
    START
    + """
from indexer import writer
writer.SAVE_POINTS = 1
encode, calls = FakeEncoders.encode_audio, 0

def encode_audio(self, windows):
    global calls
    calls += 1
    if calls == 4:
        while not library.status().files:
            time.sleep(0.01)
        pause()
    return encode(self, windows)

FakeEncoders.encode_audio = encode_audio
print(library.index([sys.argv[2]]).indexed, flush=True)
library.close()
"""
)
OPTIMISE = (
    START
    + """
import pytest
from engine.memory import edge, edge_shard
from tests.engine.memory.test_edge_optimise import Builder
patch = pytest.MonkeyPatch()
edge.INDEX_FROM_POINTS = edge_shard.INDEX_FROM_POINTS = 50
Builder(Path(sys.argv[3]), patch)
print(library.index([sys.argv[2]]).indexed, flush=True)
library.close()
"""
)
WRONG_VERSION = "import engine.memory.guest as guest\nguest.PROTOCOL = 99\n" + SEARCH


class Process:
    """A process at work in the library."""

    def __init__(self, script: str, *arguments: object) -> None:
        command = [sys.executable, "-c", script, *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def is_busy(self) -> bool:
        return self.says() == "busy" and self.process.poll() is None

    def ends(self) -> str:
        """Let it go on to its end; what it still said."""
        out, err = self.process.communicate("go on\n", timeout=100)
        assert self.process.returncode == 0, err
        return out.strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files of each band, no two of the same content."""
    folder = tmp_path_factory.mktemp("sounds")
    for n in range(FILES):
        samples = tone(2.0, rate_hz=8000, hz=BANDS[n % 6]) + noise(2.0, rate_hz=8000, seed=n, peak=0.01)
        write_sound(folder / f"{n:02}.wav", samples, rate_hz=8000)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "library"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, sounds: Path) -> Path:
    """A library that is only searched."""
    folder = tmp_path_factory.mktemp("full")
    with opened(folder) as library:
        assert library.index([sounds]).indexed == FILES
    return folder


def opened(folder: Path) -> Library:
    return Library(folder, encoders=FakeEncoders())


@pytest.fixture
def indexing(folder: Path, sounds: Path) -> Iterator[Process]:
    """A process in the middle of its first run of index."""
    process = Process(INDEX, folder, sounds)
    assert process.is_busy()
    yield process
    process.kill()


def test_two_searches_at_once(full: Path) -> None:
    """The second is answered while the first holds the library, and takes its place when that has ended."""
    first = Process(SEARCH, full, "band500")
    assert (first.says(), first.is_busy()) == ("8", True)
    second = Process(SEARCH, full, "band63")
    assert (second.says(), second.is_busy()) == ("8", True)
    assert first.process.poll() is None
    first.ends()
    third = Process(SEARCH, full, "band125")
    assert (third.says(), third.is_busy()) == ("8", True)
    second.ends()
    third.ends()


def test_searches_come_and_go(full: Path) -> None:
    """Holders end while guests ask them, again and again; nobody is sent away, and nobody gets less than all."""
    words = ("band63", "band250", "band1000")
    processes = [Process(SEARCH_OFTEN, full, *words) for _ in range(3)]
    assert [process.ends() for process in processes] == ["\n".join(["8"] * 9)] * 3


def test_many_search_and_ask_for_the_status_during_index(indexing: Process, folder: Path, sounds: Path) -> None:
    with opened(folder) as library:
        heard = library.status().files
        assert 0 < heard < FILES
        others = [Process(SEARCH, folder, "band500") for _ in range(3)]
        answers = [other.says() for other in others]
        assert all(0 < int(answer) < 8 for answer in answers)
        assert [other.is_busy() for other in others] == [True] * 3
        assert heard <= sum(len(library.search(f"band{band}", k=100)) for band in BANDS) < FILES
        assert library.search("silence") == [], "a memory that is being written has lost nothing"
        assert "while it may be written to" in library.check()["memory"]
        assert indexing.process.poll() is None
        assert indexing.ends() == str(FILES)
        assert len(library.search("band500", k=100)) == 8
        assert f"{library.status().windows} windows, as many as the ledger has" in library.check()["memory"]
        for other in others:
            other.ends()


def test_a_search_during_optimise(folder: Path, sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder(tmp_path, monkeypatch)  # the same folder as that of the process: here only to watch it
    indexing = Process(OPTIMISE, folder, sounds, tmp_path)
    builder.pid()
    with opened(folder) as library:
        assert library.status().files == FILES
        assert len(library.search("band500", k=100)) == 8
        other = Process(SEARCH, folder, "band63")
        assert other.says() == "8"
        assert indexing.process.poll() is None
        assert not builder.go.exists(), "all this before it was allowed to build"
        builder.go.touch()
        assert indexing.ends() == str(FILES)
        assert len(library.search("band500", k=100)) == 8
        other.ends()
    assert [path.name for path in (folder / "memory" / "sounds").glob("*.shard")] == ["fake@000000000000.1.shard"]


def test_a_killed_holder_leaves_nothing_in_the_way(indexing: Process, folder: Path, sounds: Path) -> None:
    """A guest of its asks on and on meanwhile, and takes its place."""
    answers: list[int] = []
    killed = threading.Event()
    with opened(folder) as guest:
        guest.search("band500")

        def ask() -> None:
            while not killed.is_set() or not answers or answers[-1] < 8:
                answers.append(len(guest.search("band500", k=100)))
                if killed.is_set() and len(answers) > 10_000:
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        before = holder_of(folder)
        indexing.kill()
        assert before is not None
        assert before.pid == indexing.process.pid
        assert 0 < guest.status().files < FILES
        report = guest.index([sounds])
        killed.set()
        asking.join(60)
        assert report.indexed + report.skipped == FILES
        assert answers[-1] == 8
        guest.check()
        holder = holder_of(folder)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert {path.name for path in folder.iterdir()} == {"ledger.sqlite", "lock", "memory"}


def test_a_second_index_says_whom_it_waits_for(indexing: Process, folder: Path, sounds: Path) -> None:
    holder = f"process {indexing.process.pid} on {platform.node()}, indexing since 20"
    told: list[str] = []
    with opened(folder) as second:
        with pytest.raises(LibraryBusyError) as caught:
            second.index([sounds], wait_s=0.0)
        assert f"held by {holder}" in str(caught.value)

        def let_go(text: str) -> None:
            told.append(text)
            assert indexing.process.stdin is not None
            indexing.process.stdin.write("go on\n")
            indexing.process.stdin.flush()

        assert second.index([sounds], wait_s=100.0, on_wait=let_go).skipped == FILES
    assert len(told) == 1
    assert told[0].startswith(f"waiting for {holder}")
    assert indexing.says() == str(FILES)


def test_at_a_terminal_index_waits_until_it_may(tmp_path: Path, sounds: Path) -> None:
    terminal, end = os.openpty()
    (tmp_path / "library").mkdir()
    lock = LibraryLock.take(tmp_path / "library")
    assert lock
    lock.say("indexing", None)
    environment = os.environ | {"EARSHOT_LIBRARY": str(tmp_path / "library"), "TERM": "dumb"}
    command = [sys.executable, "-m", "earshot", "index", str(sounds / "00.wav")]
    waiting = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=end, text=True)
    os.close(end)
    said = b""
    while b"stops waiting" not in said:
        said += os.read(terminal, 1024)
    assert f"waiting for process {os.getpid()} on {platform.node()}, indexing since" in said.decode()
    lock.release()
    out, _ = waiting.communicate(timeout=100)
    assert (waiting.returncode, "1 indexed" in out) == (0, True)
    os.close(terminal)


def test_a_guest_of_another_version_is_told(full: Path) -> None:
    with opened(full) as holder:
        holder.search("band500")
        guest = Process(WRONG_VERSION, full, "band500")
        _, err = guest.process.communicate(timeout=60)
    assert guest.process.returncode == 1
    assert f"version 99 to process {os.getpid()}, which holds the library; expected version {PROTOCOL}" in err
