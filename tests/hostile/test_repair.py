"""Libraries with a damaged, lost or truncated ledger or memory: what is said, and what `repair` brings back."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from earshot.copying import copy_library
from earshot.lock import LibraryLock
from earshot.repair import NAMED, REBUILT, RENEWED, WHOLE, repair
from engine.bundle import open_bundle
from engine.errors import DamagedMemoryError, EarshotError, LibraryBusyError, LibraryError
from engine.fakes import FakeEncoders
from engine.memory.edge import EdgeMemory
from indexer.ledger import Ledger
from indexer.payload import of_contents
from tests.sounds import tone, write_sound

ROOT = Path(__file__).parents[2]


class Place:
    """A library of six files: five contents, a copy, a name that is not UTF-8, and one that can't be heard."""

    def __init__(self, sounds: Path, library: Path) -> None:
        self.sounds, self.library = sounds, library
        self.ledger = self.library / "ledger.sqlite"
        self.memory = self.library / "memory" / "sounds"

    def fill(self) -> None:
        for n in range(5):
            write_sound(self.sounds / f"{n}.wav", tone(2.0 + n, rate_hz=8000, hz=100.0 * (n + 1)), rate_hz=8000)
        shutil.copy(self.sounds / "1.wav", self.sounds / "copy.wav")
        (self.sounds / "4.wav").rename(self.sounds / os.fsdecode(b"caf\xe9.wav"))
        (self.sounds / "text.wav").write_text("no sound")
        self.index()

    def open(self) -> Library:
        return Library(self.library, encoders=FakeEncoders())

    def index(self) -> tuple[int, int, int]:
        with self.open() as library:
            report = library.index([self.sounds])
        return report.indexed, report.windows, len(report.failed)

    def known(self) -> set[tuple[object, ...]]:
        """All that the ledger says of what could be heard, but sizes and times."""
        ledger = Ledger(self.ledger)
        try:
            rows = {(row.path, row.sha256) for row in ledger.files(failed=False)}
            return rows | {ledger.totals(), ledger.setting("space_id")}
        finally:
            ledger.close()

    def points(self) -> dict[str, tuple[bytes, str]]:
        space = FakeEncoders().space
        with EdgeMemory(self.memory) as memory:
            memory.ensure_space(space.space_id, space.dim)
            return {
                record.id: (record.vector.tobytes(), repr(sorted(record.payload.items())))
                for record in memory.scroll(with_vectors=True)
                if record.vector is not None
            }


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("original")
    original = Place(folder / "sounds", folder / "library")
    original.fill()
    return original


@pytest.fixture
def place(original: Place, tmp_path: Path) -> Place:
    """A library to be damaged; its sounds stay as they are."""
    command = ["cp", "-a", "--sparse=always", str(original.library), str(tmp_path / "library")]
    subprocess.run(command, check=True)
    return Place(original.sounds, tmp_path / "library")


def without_failed(known: set[tuple[object, ...]]) -> set[object]:
    return {item if not hasattr(item, "failed") else (item.files, item.windows, item.audio_s) for item in known}


def garbage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[: len(content) // 2] = os.urandom(len(content) // 2)
    path.write_bytes(content)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096 - 100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


DAMAGES = {"garbage": garbage, "half": half, "empty": empty, "gone": Path.unlink}


def close_wal(ledger: Path) -> None:
    """Bring what is in the log into the file itself, so that damage there is damage to all."""
    db = sqlite3.connect(ledger)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def test_a_library_that_is_whole_stays_as_it_is(place: Place):
    known, points = place.known(), place.points()
    report = repair(place.library)
    assert report.was_whole
    assert report.is_whole
    assert (report.files, report.windows, report.aside) == (6, len(points), None)
    assert (place.known(), place.points()) == (known, points)
    assert not (place.library / "damaged").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_ledger_is_rebuilt_without_hearing_anything_again(place: Place, damage: str):
    known, points = place.known(), place.points()
    close_wal(place.ledger)
    DAMAGES[damage](place.ledger)
    with pytest.raises(LibraryError, match="earshot repair") as caught, place.open() as library:
        library.index([place.sounds])
    assert caught.value.found
    assert caught.value.expected
    assert place.points() == points, "nothing is removed before the repair"
    report = repair(place.library)
    assert (report.ledger, report.memory, report.is_whole, report.was_whole) == (REBUILT, WHOLE, True, False)
    assert (report.files, report.windows) == (6, len(points))
    if damage in ("garbage", "half"):
        assert (Path(str(report.aside)) / "ledger.sqlite").exists()
    assert without_failed(place.known()) == without_failed(known)
    assert place.points() == points
    assert place.index() == (6, 0, 1), "every file is read once and known by its content"
    assert place.known() == known
    assert place.points() == points
    assert repair(place.library).was_whole


@pytest.mark.parametrize("name", ["current", "edge_config.json", "segment.json", "shard", "everything"])
def test_a_damaged_memory_is_set_aside_and_filled_again(place: Place, name: str):
    known, points = place.known(), place.points()
    if name == "everything":
        for path in place.memory.rglob("*"):
            if path.is_file():
                garbage(path)
    elif name == "shard":
        [shard] = place.memory.glob("*.shard")
        shutil.rmtree(shard)
        shard.write_text("no folder")
    else:
        garbage(next(place.memory.rglob(name)))
    with pytest.raises(EarshotError) as caught, place.open() as library:
        library.check()
    assert caught.value.found
    assert caught.value.action
    report = repair(place.library)
    assert report.memory == RENEWED
    assert not report.is_whole
    assert report.lost == 5
    assert report.aside
    assert any(Path(report.aside).iterdir())
    with place.open() as library:
        state = library.status()
    assert (state.files, state.failed, state.lost) == (0, 1, 6), "what is lost is no bad file"
    assert place.index() == (6, len(points), 0)
    assert without_failed(place.known()) == without_failed(known)
    assert place.points() == points
    assert repair(place.library).was_whole


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b""), Path.unlink], ids=["empty", "gone"])
def test_vectors_that_vanish_are_found(place: Place, damage: Callable[[Path], None]):
    """Qdrant opens a shard whose segments are gone without a word: the counts tell."""
    points = place.points()
    [shard] = place.memory.glob("*.shard")
    for segment in (shard / "segments").iterdir():
        shutil.rmtree(segment)
    shutil.rmtree(shard / "wal", ignore_errors=True)
    with pytest.raises(EarshotError), place.open() as library:
        library.check()
    report = repair(place.library)
    assert not report.is_whole
    assert report.lost == 5
    place.index()
    assert place.points() == points
    with place.open() as library:
        library.check()


def test_a_search_says_that_windows_are_missing(place: Place):
    """Qdrant answers from what is left without a word."""
    [ids] = place.memory.glob("*.shard/segments/*/mutable_id_tracker.mappings")
    whole = len(place.points())
    ids.write_bytes(ids.read_bytes()[: ids.stat().st_size // 2])
    with place.open() as library:
        library.status()
        assert library.remarks == ()
        assert library.search("band500", min_relevance=0)
        [remark] = library.remarks
        assert f"windows in the memory, not {whole}" in remark
        library.index([place.sounds])
        library.search("band500", min_relevance=0)
        assert library.remarks == ()
    with place.open() as library:
        library.search("band500", min_relevance=0)
        assert library.remarks == ()


INSIDE = {
    "vector_storage/vectors/status.dat": b"",
    "vector_storage/vectors/chunk_0.mmap": bytes(1 << 16),
    "vector_storage/deleted/flags_a.dat": b"\xa5" * (1 << 16),
    "payload_storage/tracker.dat": bytes(1 << 16),
    "payload_storage/page_0.dat": b"\x5a" * (1 << 16),
    "mutable_id_tracker.mappings": b"",
    "mutable_id_tracker.versions": b"",
}


@pytest.mark.parametrize("name", INSIDE)
def test_no_damage_inside_a_shard_is_taken_for_whole(place: Place, name: str):
    """Qdrant opens a shard with any of these damaged, some without a word."""
    points = place.points()
    [path] = place.memory.glob(f"*.shard/segments/*/{name}")
    with path.open("r+b") as file:
        file.write(INSIDE[name])
        if not INSIDE[name]:
            file.truncate(0)
    report = repair(place.library)
    assert not report.was_whole
    assert not report.is_whole
    place.index()
    assert place.points() == points
    assert repair(place.library).was_whole


def chunk(place: Place) -> np.ndarray:
    """The vectors as they lie on disk, to be damaged."""
    [path] = place.memory.glob("*.shard/segments/*/vector_storage/vectors/chunk_0.mmap")
    return np.memmap(path, np.float32, "r+").reshape(-1, FakeEncoders().space.dim)


def test_what_is_no_cosine_is_no_answer(place: Place):
    vectors = chunk(place)
    vectors[: len(place.points())] = 1e30
    vectors.flush()
    with place.open() as library, pytest.raises(DamagedMemoryError, match=r"cosine .*earshot repair"):
        library.search("band500", min_relevance=0)


def test_doctor_reads_vectors(place: Place):
    vectors = chunk(place)
    vectors[0] /= 2
    vectors.flush()
    with place.open() as library:
        library.search("band500", min_relevance=0)
        with pytest.raises(DamagedMemoryError, match=r"damaged windows .*earshot repair"):
            library.check()
    assert repair(place.library).unsound == 1


def test_repair_measures_vectors_of_any_size_without_a_word(place: Place):
    vectors = chunk(place)
    vectors[0] = 1e30
    vectors.flush()
    assert repair(place.library).unsound == 1  # warnings are errors here


def test_doctor_reads_payloads(place: Place):
    [path] = place.memory.glob("*.shard/segments/*/payload_storage/page_0.dat")
    with path.open("r+b") as file:
        file.write(b"\x5a" * (1 << 16))
    with place.open() as library:
        for ask in (library.check, lambda: library.search("band500", min_relevance=0)):
            with pytest.raises(DamagedMemoryError, match=r"found .*expected .*earshot repair"):
                ask()


def test_vectors_that_are_no_longer_what_was_written_are_found(place: Place):
    points = place.points()
    space = FakeEncoders().space
    with EdgeMemory(place.memory) as memory:
        memory.ensure_space(space.space_id, space.dim)
        record = next(memory.scroll())
        one = str(record.payload["sha256"])
        memory.set_payload(of_contents(one), {"paths": None})
    report = repair(place.library)
    assert report.unsound > 0
    assert report.lost == 1
    assert not report.is_whole
    place.index()
    assert place.points() == points


def test_the_file_that_names_space_and_shard_is_written_again(tmp_path: Path):
    """Where the bundle tells how many numbers a vector has, nothing needs to be heard again."""
    manifest = open_bundle("starter").manifest
    encoders = FakeEncoders(dim=manifest.dim)
    encoders.space = replace(encoders.space, space_id=manifest.space_id)
    write_sound(tmp_path / "sounds" / "a.wav", tone(3.0))
    with Library(tmp_path / "library", encoders=encoders) as library:
        library.index([tmp_path / "sounds"])
    (tmp_path / "library" / "memory" / "sounds" / "current").write_bytes(b"\0" * 60)
    (lock := LibraryLock.take(tmp_path / "library")).say("searching", None)
    with pytest.raises(LibraryBusyError, match="searching"):
        repair(tmp_path / "library")
    lock.release()
    report = repair(tmp_path / "library")
    assert report.is_whole
    assert (report.memory, report.was_whole, report.aside) == (NAMED, False, None)
    assert repair(tmp_path / "library").was_whole
    assert report.windows > 0
    assert report.bundle == "starter"
    with Library(tmp_path / "library", encoders=encoders) as library:
        assert library.index([tmp_path / "sounds"]).skipped == 1


def test_settings_come_back(tmp_path: Path):
    """A library of a bundle that is here is found to be its own, though its ledger is gone."""
    manifest = open_bundle("starter").manifest
    encoders = FakeEncoders(dim=manifest.dim)
    encoders.space = replace(encoders.space, space_id=manifest.space_id)
    write_sound(tmp_path / "sounds" / "a.wav", tone(3.0))
    with Library(tmp_path / "library", encoders=encoders) as library:
        library.index([tmp_path / "sounds"])
    (tmp_path / "library" / "ledger.sqlite").unlink()
    assert repair(tmp_path / "library").bundle == "starter"
    ledger = Ledger(tmp_path / "library" / "ledger.sqlite")
    assert (ledger.setting("space_id"), ledger.setting("bundle")) == (manifest.space_id, "starter")
    ledger.close()


def test_a_library_without_a_sound_is_whole(tmp_path: Path):
    Library(tmp_path / "library", encoders=FakeEncoders()).close()
    report = repair(tmp_path / "library")
    assert report.was_whole
    assert report.aside is None


def test_ledger_and_memory_both_lost_is_an_empty_library(place: Place):
    points = place.points()
    garbage(place.ledger)
    for path in place.memory.rglob("*"):
        if path.is_file():
            garbage(path)
    report = repair(place.library)
    assert (report.ledger, report.memory, report.files) == (REBUILT, RENEWED, 0)
    shutil.rmtree(place.library / "memory")
    place.ledger.unlink()
    place.index()
    assert place.points() == points


def test_what_a_killed_run_left_is_not_taken_for_whole(place: Place):
    """Of a long file the first windows are written before its end is known."""
    space = FakeEncoders().space
    with EdgeMemory(place.memory) as memory:
        memory.ensure_space(space.space_id, space.dim)
        last = max(memory.scroll(), key=lambda record: record.payload["window"])
        from engine.types import Clause, Filter

        memory.delete(
            Filter((Clause("sha256", "=", last.payload["sha256"]), Clause("window", "=", last.payload["window"])))
        )
    place.ledger.unlink()
    report = repair(place.library)
    assert (report.files, report.lost, report.is_whole) == (5, 1, False)
    indexed, windows, _ = place.index()
    assert indexed == 6
    assert windows == last.payload["window"] + 1, "only that file is heard again"


def test_the_command_says_what_it_did_and_by_its_status_what_is_left(place: Place):
    command = [sys.executable, "-m", "earshot", "repair", "--library", str(place.library)]
    whole = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=ROOT)
    assert whole.returncode == 0
    assert json.loads(whole.stdout)["was_whole"] is True
    place.ledger.write_bytes(b"no database" * 1000)
    rebuilt = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert rebuilt.returncode == 0
    assert "ledger: rebuilt" in rebuilt.stdout
    assert "damaged/1" in rebuilt.stdout
    shutil.rmtree(place.memory)
    lost = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert lost.returncode == 3
    assert "run `earshot index` on your folders again: it hears 6 sounds anew" in lost.stdout
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 3, "as long as something is to be heard again"
    assert "nothing to repair" not in again.stdout
    assert "run `earshot index` on your folders again: it hears 6 sounds anew" in again.stdout


def test_a_library_that_lost_all_is_no_place_for_a_copy(place: Place, tmp_path: Path):
    """Its ledger still knows what is to be heard again."""
    other = Place(tmp_path / "sounds", tmp_path / "other")
    write_sound(other.sounds / "a.wav", tone(2.0, rate_hz=8000, hz=700.0), rate_hz=8000)
    other.index()
    ledger = Ledger(place.ledger)
    ledger.forget_path(place.sounds / "text.wav")
    ledger.close()
    shutil.rmtree(place.memory)
    assert repair(place.library).waiting == 6
    with place.open() as library:
        state = library.status()
    assert (state.files, state.failed, state.lost) == (0, 0, 6)
    with pytest.raises(LibraryError, match="a library in"):
        copy_library(other.library, place.library)


def test_a_newer_ledger_is_no_damage(place: Place, tmp_path: Path):
    (tmp_path / "damaged earshot repair").mkdir()
    place = Place(place.sounds, place.library.rename(tmp_path / "damaged earshot repair" / "library"))
    db = sqlite3.connect(place.ledger)
    db.execute("PRAGMA user_version=99")
    db.close()
    before = place.ledger.read_bytes()
    with pytest.raises(LibraryError, match="update earshot"):
        repair(place.library)
    assert place.ledger.read_bytes() == before
    assert not (place.library / "damaged").exists()


def test_no_library_is_not_repaired(tmp_path: Path):
    with pytest.raises(LibraryError, match="no library"):
        repair(tmp_path)
    assert list(tmp_path.iterdir()) == []
