from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import LibraryError
from indexer.ledger import MIGRATIONS, Ledger


@pytest.fixture
def ledger(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    yield ledger
    ledger.close()


def test_a_content_is_indexed_only_when_it_is_complete(ledger: Ledger):
    ledger.announce("a")
    assert not ledger.is_indexed("a")
    ledger.complete("a", windows=3, duration_s=2.5)
    ledger.assign(Path("/x.wav"), 10, 20, "a")
    assert ledger.is_indexed("a")
    totals = ledger.totals()
    assert (totals.files, totals.failed, totals.windows, totals.audio_s) == (1, 0, 3, 2.5)


def test_announcing_again_does_not_undo_completion(ledger: Ledger):
    ledger.announce("a")
    ledger.complete("a", 1, 1.0)
    ledger.announce("a")
    assert ledger.is_indexed("a")


def test_copies_count_once_in_windows_and_twice_in_files(ledger: Ledger):
    ledger.announce("a")
    ledger.complete("a", 4, 8.0)
    ledger.assign(Path("/1.wav"), 1, 1, "a")
    ledger.assign(Path("/2.wav"), 1, 1, "a")
    assert ledger.paths_of("a") == [Path("/1.wav"), Path("/2.wav")]
    assert (ledger.totals().files, ledger.totals().windows) == (2, 4)


def test_orphans_are_contents_without_a_file(ledger: Ledger):
    for sha256 in "abc":
        ledger.announce(sha256)
        ledger.complete(sha256, 1, 1.0)
    ledger.assign(Path("/b.wav"), 1, 1, "b")
    assert sorted(ledger.orphans(10)) == ["a", "c"]
    assert len(ledger.orphans(1)) == 1
    ledger.mark_pending(["a"])
    assert not ledger.is_indexed("a")
    ledger.drop_contents(["a"])
    assert ledger.orphans(10) == ["c"]


def test_names_that_are_not_utf8_survive(ledger: Ledger):
    odd = Path(os.fsdecode(b"/caf\xe9 \n.wav"))
    ledger.fail(odd, 1, 2, "broken")
    row = ledger.file(odd)
    assert row is not None
    assert row.path == odd
    assert [r.path for r in ledger.files(failed=True)] == [odd]


def test_files_pages_through_more_than_one_page(ledger: Ledger):
    with ledger.transaction():
        for n in range(2500):
            ledger.fail(Path(f"/{n:05d}.wav"), 1, 1, "broken")
    paths = [row.path for row in ledger.files()]
    assert len(paths) == 2500
    assert paths == sorted(paths)


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger):
    def half_done() -> None:
        with ledger.transaction():
            ledger.fail(Path("/a.wav"), 1, 1, "broken")
            raise KeyError

    with pytest.raises(KeyError):
        half_done()
    assert ledger.file(Path("/a.wav")) is None


def test_a_newer_ledger_is_refused(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    Ledger(path).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(LibraryError, match="newer"):
        Ledger(path)


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LibraryError, match=r"damaged ledger .*earshot repair"):
        Ledger(path)


def test_several_may_create_a_ledger_at_once(tmp_path: Path):
    for n in range(10):
        path = tmp_path / f"{n}.sqlite"
        start = threading.Barrier(8)

        def create(path: Path = path, start: threading.Barrier = start) -> str:
            start.wait()
            ledger = Ledger(path)
            try:
                return str(ledger.settle("space_id", threading.current_thread().name))
            finally:
                ledger.close()

        with ThreadPoolExecutor(8) as pool:
            settled = [future.result() for future in [pool.submit(create) for _ in range(8)]]
        assert len(set(settled)) == 1


def test_settle_keeps_what_came_first(ledger: Ledger):
    assert ledger.settle("space_id", "a@1") == "a@1"
    assert ledger.settle("space_id", "b@2") == "a@1"
    assert ledger.setting("space_id") == "a@1"


def test_a_ledger_of_version_1_is_brought_up_to_date(tmp_path: Path):
    path = tmp_path / "ledger.sqlite"
    db = sqlite3.connect(path)
    db.executescript(f"{MIGRATIONS[0]} PRAGMA user_version=1;")
    db.execute("INSERT INTO files VALUES (?, 1, 2, NULL, 'broken')", (b"/a.wav",))
    db.commit()
    db.close()
    ledger = Ledger(path)
    row = ledger.file(Path("/a.wav"))
    ledger.close()
    assert row is not None
    assert (row.reason, row.transient) == ("broken", False)


def test_files_under_a_folder_are_those_below_it(ledger: Ledger):
    for name in ("/a", "/a.wav", "/a/b.wav", "/a/c/d.wav", "/a0.wav", "/ab/e.wav"):
        ledger.fail(Path(name), 1, 1, "broken")
    assert [str(row.path) for row in ledger.files_under(Path("/a"))] == ["/a", "/a/b.wav", "/a/c/d.wav"]
    assert len(list(ledger.files_under(Path("/")))) == 6


def test_what_the_memory_lost_is_to_be_heard_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.ledger._TALLY_AT_ONCE", 2)
    for sha256, windows in (("whole", 3), ("short", 3), ("lost", 1)):
        ledger.announce(sha256)
        ledger.complete(sha256, windows, 1.0)
        ledger.assign(Path(f"/{sha256}.wav"), 1, 1, sha256)
    assert ledger.disown_lost(["whole", "short", "whole", "foreign", "short", "whole"]) == 2
    assert [row.path.stem for row in ledger.files(failed=True) if row.transient] == ["lost", "short"]
    assert ledger.is_indexed("whole")
    assert ledger.totals().windows == 3
    assert sorted(ledger.orphans(10)) == ["foreign", "lost", "short"]
    assert ledger.disown_lost(["whole"] * 3) == 0


def test_a_ledger_takes_over_what_another_says(ledger: Ledger, tmp_path: Path):
    other = Ledger(tmp_path / "other.sqlite")
    other.set_setting("bundle", "theirs")
    other.set_setting("secret", 1)
    other.complete("a", 3, 1.5)
    other.announce("half")
    other.assign(Path("/1.wav"), 10, 20, "a")
    other.fail(Path(os.fsdecode(b"/\xff.wav")), 30, 40, "broken", transient=True)
    ledger.announce("a")
    ledger.complete("gone", 1, 1.0)
    ledger.assign(Path("/gone.wav"), 1, 1, "gone")
    for _ in range(2):
        ledger.adopt(other, "secret")
        assert list(ledger.files()) == list(other.files())
        assert ledger.is_indexed("a")
        assert not ledger.is_indexed("half")
        assert (ledger.setting("bundle"), ledger.setting("secret")) == ("theirs", None)
        assert ledger.orphans(10) == ["gone"]
    other.close()
