"""A disk that is full, at every place where something is written: ledger and memory agree, and the next run goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from earshot import Library
from engine.errors import EarshotError, LibraryError, MemoryStoreError
from engine.fakes import FakeEncoders
from indexer import writer
from indexer.ledger import Ledger
from tests.indexer.bench import Bench
from tests.sounds import tone, write_sound


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    for n in range(12):
        bench.write(f"{n:02}.wav", hz=100.0 * (n + 1))
    yield bench
    bench.ledger.close()


def agree(bench: Bench) -> int:
    """How many files are known, all of whose windows are in the memory."""
    known = {row.sha256 for row in bench.ledger.files(failed=False)}
    held = {record.payload["sha256"] for record in bench.memory.scroll()}
    assert known <= held, "nothing is known that is not remembered"
    return bench.ledger.totals().files


@pytest.mark.parametrize("call", ["upsert", "flush", "set_payload", "delete"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_no_room_for_vectors(bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str, at: int):
    monkeypatch.setattr(writer, "SAVE_POINTS", 6)
    shutil.copy(bench.sounds / "00.wav", bench.sounds / "copy.wav")
    real, calls = getattr(bench.memory, call), 0

    def full(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls >= at:
            raise MemoryStoreError("0 MiB free on the disk", "at least 256 MiB", "free some space")
        return real(*args)

    monkeypatch.setattr(bench.memory, call, full)
    with suppress(MemoryStoreError):  # some calls are not made so often
        bench.index(jobs=1)
    monkeypatch.undo()
    assert agree(bench) <= 13
    bench.index()
    assert agree(bench) == 13
    assert bench.memory.count() == bench.ledger.totals().windows == 36


def test_no_room_for_the_ledger(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """SQLite's own bound on its pages gives its own error for a full disk."""
    monkeypatch.setattr(writer, "SAVE_POINTS", 6)
    for n in range(300):
        (bench.sounds / f"text {n} {'long name ' * 15}.wav").write_text(f"no sound {n}")
    bench.ledger._db.execute("PRAGMA max_page_count=14")
    with pytest.raises(LibraryError, match=r"database or disk is full\); expected .* free some space"):
        bench.index()
    before = agree(bench)
    assert before < 12 + 300
    with pytest.raises(LibraryError, match="full"):
        bench.index()
    assert agree(bench) >= before
    bench.ledger._db.execute("PRAGMA max_page_count=1073741823")
    bench.index()
    assert agree(bench) == 12
    assert bench.ledger.totals().failed == 300
    assert bench.memory.count() == bench.ledger.totals().windows == 36


def announce_many(ledger: Ledger) -> None:
    with ledger.transaction():
        for n in range(10_000):
            ledger.announce(f"{n:064}")


def test_a_commit_that_fails_leaves_the_ledger_usable(bench: Bench):
    ledger = bench.ledger
    ledger._db.execute("PRAGMA max_page_count=8")
    with pytest.raises(LibraryError, match="full"):
        announce_many(ledger)
    ledger._db.execute("PRAGMA max_page_count=1073741823")
    with ledger.transaction():
        ledger.announce("a" * 64)
    assert ledger.orphans(10) == ["a" * 64]


def fill(path: Path) -> None:
    """Until the disk is full."""
    with path.open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(1 << 20)):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 340 MB in RAM: room for a shard, not for one to be written in."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=340m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_real_disk_that_is_full(small_disk: Path, tmp_path: Path):
    for n in range(4):
        write_sound(tmp_path / "sounds" / f"{n}.wav", tone(2.0, rate_hz=8000, hz=500.0 + n), rate_hz=8000)
    with Library(small_disk / "library", encoders=FakeEncoders()) as library:
        with pytest.raises(EarshotError, match=r"MiB free on the disk .*expected .*free some space"):
            library.index([tmp_path / "sounds"])
        assert library.status().files == 0
    subprocess.run(["mount", "-o", "remount,size=1g", str(small_disk)], check=True)
    with Library(small_disk / "library", encoders=FakeEncoders()) as library:
        assert library.index([tmp_path / "sounds"]).indexed == 4
        library.check()
    fill(small_disk / "filler")
    write_sound(tmp_path / "sounds" / "new.wav", tone(2.0, rate_hz=8000, hz=900), rate_hz=8000)
    with pytest.raises(EarshotError), Library(small_disk / "library", encoders=FakeEncoders()) as library:
        library.index([tmp_path / "sounds"])
    (small_disk / "filler").unlink()
    with Library(small_disk / "library", encoders=FakeEncoders()) as library:
        assert library.index([tmp_path / "sounds"]).indexed == 1
        library.check()
        assert len(library.search("band500", min_relevance=0)) == 5


def test_a_disk_that_may_not_be_written(small_disk: Path, tmp_path: Path):
    """Of a backup mounted read-only the counts can be had; Qdrant Edge writes even to be read."""
    subprocess.run(["mount", "-o", "remount,size=1g", str(small_disk)], check=True)
    write_sound(tmp_path / "sounds" / "a.wav", tone(2.0, rate_hz=8000, hz=500.0), rate_hz=8000)
    with Library(small_disk / "library", encoders=FakeEncoders()) as library:
        library.index([tmp_path / "sounds"])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Library(small_disk / "library", encoders=FakeEncoders()) as library:
        assert (library.status().files, library.failed()) == (1, [])
        asked = (lambda: library.search("band500"), library.check, lambda: library.index([tmp_path / "sounds"]))
        for ask in asked:
            with pytest.raises(LibraryError, match=r"Read-only.*expected .* that we may write to; make it writable"):
                ask()
        with pytest.raises(LibraryError, match=r"readonly.*; make it writable"):
            library._ledger.announce("a")


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path):
    folder = tmp_path / "library"
    Library(folder, encoders=FakeEncoders()).close()
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # nobody: root may look into everything
    try:
        with pytest.raises(LibraryError, match=r"found .*Permission denied; expected .*; check its permissions"):
            Library(folder, encoders=FakeEncoders())
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
