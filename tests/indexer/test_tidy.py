"""What keeps a memory true: losses, prunes and leftovers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.errors import LibraryError
from engine.memory.exact import ExactMemory
from engine.types import Clause, Filter, Point
from indexer import tidy, writer
from indexer.payload import of_contents
from indexer.pipeline import IndexOptions, index
from tests.indexer.bench import Bench
from tests.sounds import tone, write_sound


def run(bench: Bench, *roots: Path, prune: bool = True, anyway: bool = False) -> int:
    """Index these roots; how many files were forgotten."""
    options = IndexOptions(prune=prune or anyway, prune_anyway=anyway)
    return index(roots, bench.encoders, bench.memory, bench.ledger, options).pruned


def refusal(bench: Bench, *roots: Path) -> str:
    """Why nothing was forgotten by a run that was to prune."""
    report = index(roots, bench.encoders, bench.memory, bench.ledger, IndexOptions(prune=True))
    assert report.pruned == 0
    return report.refused or ""


def test_a_memory_that_is_gone_is_filled_again(bench: Bench):
    shutil.copy(bench.write("a.wav"), bench.sounds / "b.wav")
    bench.write("c.wav", hz=1000)
    bench.index()
    before = bench.windows()
    bench.memory = ExactMemory()
    bench.memory.ensure_space(bench.encoders.space.space_id, bench.encoders.space.dim)
    report = bench.index()
    assert (report.lost, report.indexed, report.skipped) == (2, 3, 0)
    assert bench.windows() == before
    assert bench.paths() == [("a.wav", "b.wav"), ("c.wav",)]
    again = bench.index()
    assert (again.lost, again.skipped) == (0, 3)


def test_a_memory_that_lost_some_windows_hears_only_those_contents_again(bench: Bench):
    for n in range(4):
        bench.write(f"{n}.wav", hz=100 * (n + 1))
    bench.index()
    before = bench.windows()
    one = of_contents(str(next(bench.memory.scroll()).payload["sha256"]))
    bench.memory.delete(Filter((*one.clauses, Clause("window", "=", 1.0))))
    assert bench.memory.count() == 11
    report = bench.index()
    assert (report.lost, report.indexed, report.skipped) == (1, 1, 3)
    assert bench.windows() == before


def test_files_elsewhere_whose_vectors_were_lost_are_shown_until_they_are_heard(bench: Bench, tmp_path: Path):
    elsewhere = bench.write("a.wav").rename(tmp_path / "elsewhere.wav")
    run(bench, elsewhere, prune=False)
    bench.memory.delete(of_contents(*(str(r.payload["sha256"]) for r in bench.memory.scroll())))
    bench.write("b.wav", hz=1000)
    assert bench.index().lost == 1
    assert [(row.path, row.transient) for row in bench.ledger.files(failed=True)] == [(elsewhere, True)]
    run(bench, elsewhere, prune=False)
    assert bench.ledger.totals().failed == 0
    assert bench.memory.count() == bench.ledger.totals().windows == 6


def test_points_that_the_ledger_does_not_know_are_removed(bench: Bench):
    bench.write("a.wav")
    bench.index()
    record = next(bench.memory.scroll(with_vectors=True))
    assert record.vector is not None
    foreign = {**record.payload, "sha256": "f" * 64}
    bench.memory.upsert([Point("00000000-0000-4000-8000-000000000000", record.vector, foreign)])
    report = bench.index()
    assert (report.lost, report.skipped) == (0, 1)
    assert bench.memory.count() == 3


def test_what_a_killed_run_left_is_removed_though_its_file_is_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "HELD_WINDOWS", 4)
    path = bench.write("long.wav", 30.0)

    def killed(*_: object) -> None:
        raise MemoryError("killed")

    monkeypatch.setattr(writer.Writer, "_finish", killed)
    with pytest.raises(MemoryError):
        bench.index()
    monkeypatch.undo()
    assert bench.memory.count() > 0
    path.unlink()
    bench.write("other.wav", hz=1000)
    bench.index()
    assert bench.paths() == [("other.wav",)]


def test_a_root_that_is_gone_is_forgotten_only_anyway(bench: Bench):
    (bench.sounds / "sub").mkdir()
    bench.write("sub/a.wav")
    bench.write("b.wav", hz=1000)
    bench.index()
    shutil.rmtree(bench.sounds / "sub")
    with pytest.raises(LibraryError, match=r"no .*sub, of which files are known; expected .*--prune-anyway"):
        run(bench, bench.sounds / "sub")
    assert bench.memory.count() == 6
    assert run(bench, bench.sounds / "sub", anyway=True) == 1
    assert bench.paths() == [("b.wav",)]


def test_a_file_named_as_root_is_forgotten_anyway(bench: Bench):
    path = bench.write("a.wav")
    bench.index()
    path.unlink()
    assert run(bench, path, anyway=True) == 1
    assert bench.memory.count() == 0


def test_an_empty_mount_point_is_no_reason_to_forget(bench: Bench, tmp_path: Path):
    disk = tmp_path / "disk"
    for n in range(3):
        write_sound(disk / f"{n}.wav", tone(2.0, rate_hz=8000, hz=100 * (n + 1)), rate_hz=8000)
        bench.write(f"{n}.wav", hz=1000 + 100 * n)
    run(bench, bench.sounds, disk)
    shutil.rmtree(disk)
    disk.mkdir()
    (bench.sounds / "0.wav").unlink()
    bench.write("new.wav", hz=2000)
    assert f"all 3 known files below {disk} gone" in refusal(bench, bench.sounds, disk)
    assert bench.ledger.totals().files == 7, "what is new is heard, nothing is forgotten"
    assert bench.memory.count() == bench.ledger.totals().windows
    assert run(bench, bench.sounds, disk, anyway=True) == 4


@pytest.mark.parametrize(("gone", "is_refused"), [(1, False), (2, False), (3, True), (9, True)])
def test_more_than_a_fifth_gone_at_once_is_refused(bench: Bench, gone: int, is_refused: bool):
    (bench.sounds / "sub").mkdir()
    for n in range(10):
        bench.write(f"sub/{n}.wav", hz=100 * (n + 1))
    (bench.sounds / "text.wav").write_text("no sound")
    bench.index()
    for n in range(gone):
        (bench.sounds / "sub" / f"{n}.wav").unlink()
    if not is_refused:
        assert run(bench, bench.sounds) == gone
        return
    sub = bench.sounds / "sub"
    assert f"{gone} of 10 known files gone, all below {sub}; expected at most 20%" in refusal(bench, bench.sounds)
    assert bench.ledger.totals().files == 10
    assert run(bench, bench.sounds, anyway=True) == gone


def disks(bench: Bench, deep: str = "") -> Path:
    """Ten folders of two files; in the last, which could be a mount point, they lie in ``deep``."""
    for n in range(10):
        folder = bench.sounds / f"disk {n}" / (deep if n == 9 else "")
        folder.mkdir(parents=True)
        for take in range(2):
            bench.write(str(folder.relative_to(bench.sounds) / f"{take}.wav"), hz=200 + 100 * n + 40 * take)
    bench.index()
    return bench.sounds / "disk 9"


@pytest.mark.parametrize("deep", ["", "a/b"])
def test_a_folder_that_became_empty_may_be_a_mount_point(bench: Bench, deep: str):
    disk = disks(bench, deep)
    shutil.rmtree(disk)
    disk.mkdir()
    said = refusal(bench, bench.sounds)
    assert said.startswith(f"found an empty folder {disk}, of which 2 files are known; expected ")
    assert "--prune-anyway" in said
    assert bench.ledger.totals().files == 20
    disk.rmdir()
    assert run(bench, bench.sounds) == 2, "a folder that somebody deleted is no mount point"


def test_a_folder_with_something_left_in_it_is_no_mount_point(bench: Bench):
    disk = disks(bench)
    (disk / "notes.txt").touch()
    for take in range(2):
        (disk / f"{take}.wav").unlink()
    assert run(bench, bench.sounds) == 2


def test_one_file_is_no_disk_though_its_folder_is_empty(bench: Bench):
    disk = disks(bench)
    (disk / "0.wav").unlink()
    assert run(bench, bench.sounds) == 1
    (disk / "1.wav").unlink()
    assert run(bench, bench.sounds) == 1


def test_what_could_never_be_heard_is_no_loss(bench: Bench):
    bench.write("a.wav")
    for n in range(5):
        (bench.sounds / f"{n}.wav").write_text(f"no sound {n}")
    bench.index()
    for n in range(5):
        (bench.sounds / f"{n}.wav").unlink()
    assert run(bench, bench.sounds) == 5


def test_files_that_moved_are_not_missing(bench: Bench):
    (bench.sounds / "old").mkdir()
    for n in range(4):
        bench.write(f"old/{n}.wav", hz=100 * (n + 1))
    bench.index()
    (bench.sounds / "old").rename(bench.sounds / "new")
    assert run(bench, bench.sounds) == 0
    assert bench.ledger.totals().files == 4


def test_a_root_that_nobody_knows_is_refused(bench: Bench):
    with pytest.raises(LibraryError, match="that exists"):
        run(bench, bench.sounds / "nowhere")


def test_without_prune_a_root_that_is_gone_is_refused(bench: Bench):
    path = bench.write("a.wav")
    bench.index()
    path.unlink()
    with pytest.raises(LibraryError, match="that exists"):
        run(bench, path, prune=False)


def test_a_link_to_nothing_is_pruned_and_no_place_of_a_moved_file(bench: Bench, tmp_path: Path):
    target = bench.write("a.wav").rename(tmp_path / "target.wav")
    (bench.sounds / "link.wav").symlink_to(target)
    bench.index()
    target.rename(bench.sounds / "moved.wav")
    bench.index()
    assert bench.paths() == [("moved.wav",)]
    bench.write("b.wav", hz=1000).rename(tmp_path / "b.wav")
    (bench.sounds / "b.wav").symlink_to(tmp_path / "b.wav")
    bench.index()
    (tmp_path / "b.wav").unlink()
    assert bench.index(prune=True).pruned == 1, "one is no disk"
    assert bench.paths() == [("moved.wav",)]


def test_pruning_many_is_few_commits_and_few_flushes(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    original = bench.write("keep.wav")
    for n in range(25):
        shutil.copy(original, bench.sounds / f"{n}.wav")
    bench.index()
    for n in range(25):
        (bench.sounds / f"{n}.wav").unlink()
    counts = {"commits": 0, "flushes": 0}
    transaction, flush = bench.ledger.transaction, bench.memory.flush

    @contextmanager
    def counted() -> Iterator[None]:
        counts["commits"] += 1
        with transaction():
            yield

    def flushed() -> None:
        counts["flushes"] += 1
        flush()

    monkeypatch.setattr(bench.ledger, "transaction", counted)
    monkeypatch.setattr(bench.memory, "flush", flushed)
    monkeypatch.setattr(tidy, "FORGET_AT_ONCE", 10)
    assert tidy.prune([bench.sounds], bench.memory, bench.ledger) == 25
    assert counts == {"commits": 3, "flushes": 3}
    assert bench.paths() == [("keep.wav",)]
