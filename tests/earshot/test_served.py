"""A library on a server, from the front doors: one machine, two machines, one that never indexed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from earshot import Library
from earshot.copying import copy_library
from earshot.lock import LibraryLock
from earshot.repair import repair
from engine.errors import LibraryBusyError, LibraryError, MemoryStoreError, SpaceMismatchError
from engine.fakes import FakeEncoders
from indexer import writer
from tests.engine.memory.stub_qdrant import Stub, fails
from tests.sounds import tone, write_sound, write_tones

pytestmark = pytest.mark.usefixtures("machine")

ROOT = Path(__file__).parents[2]


def opened(qdrant: Stub, **options: object) -> Library:
    return Library(qdrant.url, encoders=FakeEncoders(), **options)  # type: ignore[arg-type]


def test_a_server_is_a_library_like_any_other(qdrant: Stub, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 125, 500, 2000)
    with opened(qdrant) as library:
        report = library.index([folder])
        assert (report.indexed, report.windows) == (3, 9)
        [best] = library.search("band500", filters=["path~500"])
        assert (Path(best.path).name, best.start_s, best.end_s) == ("500.wav", 0.0, 2.0)
        assert library.check()["memory"] == "9 windows, as many as the ledger has"
        assert library.index([folder]).skipped == 3
        assert library.folder.is_relative_to(tmp_path / "one" / "earshot" / "served")
    with opened(qdrant, create=False) as library:
        (folder / "125.wav").unlink()
        assert library.index([folder], prune_anyway=True).pruned == 1
        state = library.status()
        assert (state.files, state.windows, state.failed, state.audio_s) == (2, 6, 0, 4.0)
        assert qdrant.url in state.memory
    assert {"places", "holders"} & {key for m in library_payloads(qdrant) for key in m} == {"places", "holders"}


def library_payloads(qdrant: Stub) -> list[dict[str, object]]:
    return [dict(point.payload or {}) for point in qdrant.store.local.scroll("sounds", limit=1000)[0]]


def test_a_machine_that_never_indexed_searches_and_counts(
    qdrant: Stub, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    with opened(qdrant) as library:
        library.index([write_tones(tmp_path / "sounds", 125, 500)])
    machine("two")
    with opened(qdrant, create=False) as library:
        assert [Path(moment.path).name for moment in library.search("band500")] == ["500.wav"]
        state = library.status()
        assert (state.files, state.windows, state.audio_s) == (2, 6, 4.0)
        assert library.check()["memory"] == "0 windows, as many as the ledger has"
    with pytest.raises(SpaceMismatchError, match=r"fake@000000000000.*other@000000000000"):
        Library(qdrant.url, encoders=FakeEncoders("other"), create=False)
    machine("three")
    with pytest.raises(SpaceMismatchError, match=r"fake@000000000000.*other@000000000000"):
        Library(qdrant.url, encoders=FakeEncoders("other"))


def test_searching_needs_no_place_to_write_to(
    qdrant: Stub, tmp_path: Path, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(qdrant) as library:
        library.index([write_tones(tmp_path / "sounds", 125, 500)])
    machine("two")
    with opened(qdrant, create=False) as library:
        assert library.search("band500")
        assert not {"lock", "indexer"} & {path.name for path in library.folder.iterdir()}
    (tmp_path / "file").write_text("no folder can be made in it")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with opened(qdrant, create=False) as library:
        assert [Path(moment.path).name for moment in library.search("band500")] == ["500.wav"]
        assert library.status().windows == 6
        assert library.check()["memory"] == "0 windows, as many as the ledger has"
        with pytest.raises(LibraryError, match="a folder to write in"):
            library.index([tmp_path / "sounds"])
    with pytest.raises(LibraryError, match="a folder to write in"):
        opened(qdrant)


def test_a_lock_that_cannot_be_taken_is_said(qdrant: Stub, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 125)
    with opened(qdrant) as library:
        library.index([folder])
        (library.folder / "lock").unlink()
        (library.folder / "lock").mkdir()
        with pytest.raises(LibraryError, match=r"lock: Is a directory.*make it writable"):
            library.index([folder])


def test_two_machines_fill_one_library(qdrant: Stub, tmp_path: Path, machine: Callable[[str], None]) -> None:
    here, there = write_tones(tmp_path / "here", 125, 500), write_tones(tmp_path / "there", 500, 2000)
    with opened(qdrant) as library:
        library.index([here])
    machine("two")
    with opened(qdrant) as library:
        assert library.index([there]).windows == 3, "what the other has heard is not heard again"
        [best] = library.search("band500")
        assert best.paths == (str(here / "500.wav"), str(there / "500.wav"))
        assert library.status().windows == 9
        (there / "500.wav").unlink()
        library.index([there], prune_anyway=True)
        assert library.search("band500")[0].paths == (str(here / "500.wav"),)
    machine("one")
    with opened(qdrant) as library:
        again = library.index([here])
        assert (again.skipped, again.lost) == (2, 0)
        assert library.check()["memory"] == "6 windows, as many as the ledger has"
        assert library.status().windows == 9


def test_there_is_no_library_until_somebody_fills_it(qdrant: Stub) -> None:
    with pytest.raises(LibraryError, match=f"no library in {qdrant.url}"):
        opened(qdrant, create=False)
    with opened(qdrant) as library, pytest.raises(LibraryError, match=f"no library in {qdrant.url}"):
        library.search("band500")


def test_a_server_that_lost_everything_is_noticed_and_filled_again(qdrant: Stub, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 125, 500)
    with opened(qdrant) as library:
        library.index([folder])
    qdrant.store.local.delete_collection("sounds-fake@000000000000")
    with opened(qdrant) as library:
        with pytest.raises(LibraryError, match="no library in"):
            library.search("band500")
        report = library.index([folder])
        assert (report.lost, report.indexed) == (2, 2)
        assert len(library.search("band500")) == 1


def test_a_lost_or_damaged_ledger_is_made_anew_from_what_the_server_knows_to_be_ours(
    qdrant: Stub, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    here, there = write_tones(tmp_path / "here", 125, 500), write_tones(tmp_path / "there", 500, 2000)
    with opened(qdrant) as library:
        library.index([here])
        ledger = library.folder / "ledger.sqlite"
    machine("two")
    with opened(qdrant) as library:
        library.index([there])
    machine("one")
    for path in ledger.parent.glob("ledger*"):
        path.unlink()
    with opened(qdrant) as library:
        report = library.index([here])
        assert (report.windows, report.lost, report.indexed, report.copies) == (0, 0, 2, 2), "nothing is encoded again"
        assert library.check()["memory"] == "6 windows, as many as the ledger has"
    ledger.write_bytes(b"no ledger" * 1000)
    repaired = repair(qdrant.url)
    assert (repaired.ledger, repaired.files, repaired.windows, repaired.lost) == ("rebuilt", 2, 6, 0)
    with opened(qdrant) as library:
        assert (library.index([here]).windows, library.status().windows) == (0, 9)


def test_a_server_that_is_away_leaves_the_status_of_this_machine(
    qdrant: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(qdrant) as library:
        library.index([write_tones(tmp_path / "sounds", 125, 500)])
    monkeypatch.setenv("EARSHOT_QDRANT_PATIENCE_S", "0")
    qdrant.fault = lambda method, path: None
    with opened(qdrant, create=False) as library:
        state = library.status()
        assert (state.files, state.windows) == (2, 6)
        assert "only what this machine knows" in state.remark
        assert "no answer" not in state.memory
        with pytest.raises(MemoryStoreError, match="no answer from"):
            library.search("band500")


def test_one_process_of_a_machine_writes_at_a_time(qdrant: Stub, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 125)
    told: list[str] = []
    with opened(qdrant) as library:
        library.index([folder])
        lock = LibraryLock.take(library.folder)
        assert lock is not None
        lock.say("indexing", None)
        with pytest.raises(LibraryBusyError, match=r"held by process \d+ on .*, indexing"):
            library.index([folder], wait_s=0.2, on_wait=told.append)
        assert len(told) == 1
        assert told[0].startswith("waiting for process ")
        assert library.search("band125")
        assert library.check()["memory"] == "3 windows, while it may be written to"
        threading.Timer(0.3, lock.release).start()
        assert library.index([folder], wait_s=30).skipped == 1


def test_a_run_waits_for_a_server_that_went_away_and_goes_on(
    qdrant: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "SAVE_POINTS", 6)
    folder = write_tones(tmp_path / "sounds", *range(100, 2000, 100))
    asked = 0

    def away_now_and_then(method: str, path: str) -> bool | None:
        nonlocal asked
        asked += 1
        return None if asked > 30 and asked % 20 < 6 else False

    qdrant.fault = away_now_and_then
    with opened(qdrant) as library:
        report = library.index([folder])
        assert (report.indexed, report.windows, report.failed) == (19, 57, [])
        assert library.check()["memory"] == "57 windows, as many as the ledger has"
    assert "does not answer" in caplog.text
    assert "answers again" in caplog.text


class Since:
    """Whether so many requests have come since the first points were written."""

    def __init__(self, number: int) -> None:
        self.left: int | None = None
        self._number = number
        self._lock = threading.Lock()

    def __call__(self, method: str, path: str) -> bool:
        with self._lock:
            if self.left is not None:
                self.left -= 1
            elif method == "PUT" and path.endswith("/points"):
                self.left = self._number
            return self.left is not None and self.left <= 0


def test_a_server_that_stays_away_ends_the_run_and_the_next_one_goes_on(
    qdrant: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SAVE_POINTS", 6)
    monkeypatch.setenv("EARSHOT_QDRANT_PATIENCE_S", "1")
    folder = write_tones(tmp_path / "sounds", *range(100, 2100, 50))
    for number, fault in enumerate([None, fails(500, "No space left on device"), fails(503), fails(401)]):
        since = Since(2 * number)
        qdrant.fault = lambda method, path, since=since, fault=fault: fault if since(method, path) else False
        with opened(qdrant) as library:
            with pytest.raises(MemoryStoreError):
                library.index([folder])
            known = library._ledger.totals().windows
        qdrant.fault = lambda method, path: False
        whole = [payload for payload in library_payloads(qdrant) if "duration_s" in payload]
        assert known <= len(whole), "never more in the ledger than on the server"
    assert known
    with opened(qdrant) as library:
        report = library.index([folder])
        assert report.lost == 0
        assert 0 < report.indexed < 40
        assert library.check()["memory"] == "120 windows, as many as the ledger has"


def test_a_run_that_breaks_off_lets_the_server_build_its_graph(
    qdrant: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SAVE_POINTS", 6)
    monkeypatch.setattr("engine.memory.server.BULK_POINTS", 6)
    since = Since(2)
    qdrant.fault = lambda method, path: fails(401) if since(method, path) and path.endswith("/points") else False
    with opened(qdrant) as library:
        with pytest.raises(MemoryStoreError, match="key"):
            library.index([write_tones(tmp_path / "sounds", *range(100, 2000, 100))])
        on, *later = qdrant.store.thresholds
        assert later == [0, on], "though the library is open still"


RUN = """
import sys
from earshot import Library
from engine.fakes import FakeEncoders
from indexer import writer
writer.SAVE_POINTS = 6
with Library(sys.argv[1], encoders=FakeEncoders()) as library:
    library.index([sys.argv[2]])
"""


def indexing(qdrant: Stub, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, qdrant.url, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def test_killed_runs_lose_and_double_nothing(qdrant: Stub, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", *range(100, 2100, 50))
    halves = 0
    for number in range(5):
        since, reached = Since(number), threading.Event()

        def hold(method: str, path: str, since: Since = since, reached: threading.Event = reached) -> bool:
            if since(method, path):
                reached.set()
                time.sleep(0.2)
            return False

        qdrant.fault = hold
        process = indexing(qdrant, folder)
        while process.poll() is None and not reached.wait(0.05):
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
        qdrant.fault = lambda method, path: False
        time.sleep(0.3)  # what had been sent is still done
        halves += 0 < len(library_payloads(qdrant)) < 120
    with opened(qdrant) as library:
        library.index([folder])
        assert library.check()["memory"] == "120 windows, as many as the ledger has"
    points = library_payloads(qdrant)
    assert len(points) == 120
    assert all(payload["paths"] and payload["windows"] == 3 for payload in points)
    assert halves >= 2


def test_two_processes_index_at_the_same_time(qdrant: Stub, tmp_path: Path, machine: Callable[[str], None]) -> None:
    """Two thirds of what each has, the other has too."""
    folders = [write_tones(tmp_path / "a", *range(100, 1600, 50)), write_tones(tmp_path / "b", *range(600, 2100, 50))]
    qdrant.fault = lambda method, path: bool(time.sleep(0.01))
    processes = []
    for name, folder in zip(("one", "two"), folders, strict=True):
        machine(name)
        processes.append(indexing(qdrant, folder))
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    points = library_payloads(qdrant)
    assert len(points) == 3 * 40
    files = {str(path) for folder in folders for path in folder.iterdir()}
    assert {str(path) for point in points for path in point["paths"]} == files  # type: ignore[attr-defined]
    for name, folder in zip(("one", "two"), folders, strict=True):
        machine(name)
        with opened(qdrant) as library:
            assert library.check()["memory"] == "90 windows, as many as the ledger has"
            again = library.index([folder])
            assert (again.skipped, again.lost) == (30, 0)
    assert library_payloads(qdrant) == points


def test_a_library_moves_to_a_server_that_others_fill_too_and_back(
    qdrant: Stub, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    here, there = write_tones(tmp_path / "here", 125, 500), tmp_path / "there" / "Thunder Storm.wav"
    shutil.copy(here / "500.wav", here / "copy.wav")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([here])
    machine("two")
    write_sound(there, tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    with opened(qdrant) as library:
        library.index([there.parent])
    machine("one")
    report = copy_library(tmp_path / "library", qdrant.url)
    assert (report.files, report.windows) == (3, 6)
    assert copy_library(tmp_path / "library", qdrant.url).written == 0
    assert len(library_payloads(qdrant)) == 6
    with opened(qdrant) as library:
        ours = (str(here / "500.wav"), str(here / "copy.wav"))
        assert library.search("band500")[0].paths == (*ours, str(there))
        assert library.index([here]).skipped == 3
    copy_library(qdrant.url, tmp_path / "back")
    with Library(tmp_path / "back", encoders=FakeEncoders()) as library:
        assert library.search("band500")[0].paths == ours, "what others hold stays with them"
        assert library.index([here]).skipped == 3


def test_ctrl_c_ends_a_wait_and_loses_nothing(qdrant: Stub, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", *range(100, 2000, 100))
    since = Since(3)
    qdrant.fault = lambda method, path: None if since(method, path) else False
    process = indexing(qdrant, folder)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "does not answer" in line
    assert "Ctrl-C stops, nothing is lost" in line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in rest
    qdrant.fault = lambda method, path: False
    with opened(qdrant) as library:
        assert library.index([folder]).lost == 0
        assert library.check()["memory"] == "57 windows, as many as the ledger has"


def test_the_command_line_takes_a_url(qdrant: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sound(tmp_path / "sounds" / "a.wav", tone(3.0, rate_hz=16_000, hz=440), rate_hz=16_000)
    earshot = shutil.which("earshot", path=str(Path(sys.executable).parent))
    assert earshot
    monkeypatch.setenv("EARSHOT_LIBRARY", qdrant.url)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([earshot, *words], capture_output=True, text=True, check=False, timeout=120)

    indexed = run("index", str(tmp_path / "sounds"), "--json")
    assert indexed.returncode == 0, indexed.stderr
    assert json.loads(indexed.stdout)["indexed"] == 1
    found = run("search", "a tone", "--min-relevance", "0", "--paths")
    assert found.stdout == f"{tmp_path / 'sounds' / 'a.wav'}\n"
    assert json.loads(run("status", "--json").stdout)["files"] == 1
    assert "as many as the ledger has" in run("doctor").stdout
    monkeypatch.setenv("EARSHOT_QDRANT_PATIENCE_S", "0")
    qdrant.fault = lambda method, path: fails(401, "Must provide an API key")
    refused = run("search", "a tone")
    assert refused.returncode == 1
    assert "EARSHOT_QDRANT_API_KEY" in refused.stderr
    assert "Traceback" not in refused.stderr
