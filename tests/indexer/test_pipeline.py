"""The writing path with the fake encoders and both memories' semantics, on real files."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from engine.memory.exact import ExactMemory
from engine.types import Filter, FloatArray, Point
from indexer import writer
from indexer.decoding import Worker
from indexer.ledger import Ledger
from indexer.pipeline import IndexOptions, index
from indexer.report import Progress
from tests.indexer.bench import RATE_HZ, Bench
from tests.sounds import tone, write_sound


def test_a_folder_is_heard_once(bench: Bench):
    bench.write("a.wav", 2.0)
    bench.write("b.flac", 0.3, 1000.0)
    first = bench.index()
    assert (first.indexed, first.skipped, first.failed, first.windows) == (2, 0, [], 4)
    assert first.audio_s == pytest.approx(2.3)
    again = bench.index()
    assert (again.indexed, again.skipped, again.windows) == (0, 2, 0)
    assert bench.memory.count() == 4
    assert set(first.stages_s) == {"scan", "hash", "decode", "encode", "write", "optimise"}


def test_what_is_remembered_of_a_window(bench: Bench):
    path = write_sound(
        bench.sounds / "AMBForst_Birds.wav", tone(1.25, rate_hz=44_100, channels=2), rate_hz=44_100, title="Morning"
    )
    bench.index()
    records = sorted(bench.memory.scroll(), key=lambda r: r.payload["window"])
    assert [(r.payload["start_s"], r.payload["end_s"]) for r in records] == [(0.0, 1.0), (0.25, 1.25)]
    payload = records[0].payload
    assert payload["paths"] == [str(path)]
    assert payload["duration_s"] == pytest.approx(1.25)
    assert (payload["title"], payload["format"], payload["channels"], payload["sample_rate_hz"]) == (
        "Morning",
        "wav",
        2,
        44_100,
    )
    assert payload["category"].startswith("AMBIENCE")


def test_one_bad_file_does_not_stop_the_run(bench: Bench):
    bench.write("good.wav")
    (bench.sounds / "bad.wav").write_text("I am a text")
    (bench.sounds / "empty.mp3").touch()
    report = bench.index()
    assert report.indexed == 1
    assert sorted(Path(path).name for path, _ in report.failed) == ["bad.wav", "empty.mp3"]
    assert all("expected" in reason for _, reason in report.failed)
    again = bench.index()
    assert (again.skipped, again.skipped_failed, again.failed) == (3, 2, [])
    retried = bench.index(retry_failed=True)
    assert len(retried.failed) == 2


def test_a_mended_file_is_heard(bench: Bench):
    (bench.sounds / "a.wav").write_text("I am a text")
    bench.index()
    bench.write("a.wav")
    report = bench.index()
    assert (report.indexed, report.failed) == (1, [])
    assert bench.ledger.totals().failed == 0


def test_copies_are_encoded_once_and_all_paths_are_shown(bench: Bench):
    original = bench.write("a.wav")
    for name in ("b.wav", "c.wav"):
        shutil.copy(original, bench.sounds / name)
    report = bench.index()
    assert (report.indexed, report.copies, report.windows) == (3, 2, 3)
    assert bench.paths() == [("a.wav", "b.wav", "c.wav")]


def test_copies_of_a_broken_file_all_fail(bench: Bench):
    for name in ("a.wav", "b.wav", "c.wav"):
        (bench.sounds / name).write_text("the same text")
    report = bench.index()
    assert (report.indexed, len(report.failed)) == (0, 3)
    assert bench.ledger.totals().failed == 3


def test_deleting_one_copy_keeps_the_rest(bench: Bench):
    shutil.copy(bench.write("a.wav"), bench.sounds / "b.wav")
    bench.index()
    (bench.sounds / "a.wav").unlink()
    report = bench.index(prune=True)
    assert report.pruned == 1
    assert bench.paths() == [("b.wav",)]
    assert bench.memory.count() == 3
    (bench.sounds / "b.wav").unlink()
    bench.index(prune=True, prune_anyway=True)
    assert bench.memory.count() == 0
    assert bench.ledger.totals().windows == 0


def test_without_prune_what_is_gone_stays(bench: Bench):
    bench.write("a.wav").unlink()
    bench.write("b.wav", hz=1000)
    bench.index()
    (bench.sounds / "b.wav").unlink()
    bench.index()
    assert bench.memory.count() == 3


def test_prune_leaves_other_roots_alone(bench: Bench, tmp_path: Path):
    bench.write("a.wav").rename(tmp_path / "elsewhere.wav")
    index([tmp_path / "elsewhere.wav"], bench.encoders, bench.memory, bench.ledger, IndexOptions())
    (tmp_path / "elsewhere.wav").unlink()
    bench.write("b.wav", hz=1000)
    bench.index(prune=True)
    assert bench.paths() == [("b.wav",), ("elsewhere.wav",)]


def test_a_moved_file_is_not_encoded_again(bench: Bench):
    bench.write("a.wav").rename(bench.sounds / "first.wav")
    bench.index()
    before = bench.windows()
    (bench.sounds / "sub").mkdir()
    (bench.sounds / "first.wav").rename(bench.sounds / "sub" / "second.wav")
    report = bench.index()
    assert (report.indexed, report.copies, report.windows) == (1, 1, 0)
    assert bench.paths() == [("second.wav",)]
    assert bench.windows() == before
    assert bench.ledger.totals().files == 1


def test_new_content_at_an_old_path_replaces_it(bench: Bench):
    bench.write("a.wav", 2.0)
    bench.index()
    bench.write("a.wav", 5.0, 1000.0)
    report = bench.index()
    assert (report.indexed, report.copies) == (1, 0)
    assert bench.memory.count() == 9
    assert bench.ledger.totals().windows == 9


def test_a_copy_whose_twin_changes_loses_that_path(bench: Bench):
    shutil.copy(bench.write("a.wav"), bench.sounds / "b.wav")
    bench.index()
    bench.write("a.wav", 2.0, 1000.0)
    bench.index()
    assert bench.paths() == [("a.wav",), ("b.wav",)]


def test_two_files_that_swap_contents(bench: Bench):
    a, b = bench.write("a.wav", hz=500), bench.write("b.wav", seconds=3.0, hz=1000)
    bench.index()
    a.rename(bench.sounds / "x"), b.rename(a), (bench.sounds / "x").rename(b)
    report = bench.index()
    assert (report.indexed, report.windows) == (2, 0)
    for record in bench.memory.scroll():
        expected = "b.wav" if record.payload["duration_s"] == pytest.approx(2.0) else "a.wav"
        assert [Path(p).name for p in record.payload["paths"]] == [expected]


def test_a_long_file_is_written_before_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "HELD_WINDOWS", 20)
    bench.write("long.wav", 40.0)
    report = bench.index()
    assert report.windows == bench.memory.count() == 79
    assert {r.payload["duration_s"] for r in bench.memory.scroll()} == {40.0}


def test_windows_of_a_file_that_fails_half_way_are_removed(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "HELD_WINDOWS", 4)
    path = bench.write("half.flac", 30.0, 700.0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    report = bench.index()
    assert len(report.failed) == 1
    assert bench.memory.count() == 0
    assert bench.ledger.orphans(10) == []


def test_a_file_that_changes_while_it_is_heard_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    path = bench.write("a.wav")

    def touching(*args: object) -> object:
        os.utime(path, ns=(1, 1))
        return pipeline_open_clip(*args)  # type: ignore[arg-type]

    pipeline_open_clip = Worker.open
    monkeypatch.setattr(Worker, "open", touching)
    report = bench.index()
    assert "changed" in report.failed[0][1]
    monkeypatch.undo()
    assert bench.index().indexed == 1


def test_an_error_of_the_memory_ends_the_run_and_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    for n in range(5):
        bench.write(f"{n}.wav", hz=100 * (n + 1))

    def full(points: list[Point]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.memory, "upsert", full)
    with pytest.raises(OSError, match="No space"):
        bench.index()
    assert bench.ledger.totals().files == 0
    monkeypatch.undo()
    assert bench.index().indexed == 5
    assert bench.memory.count() == 15


def test_an_error_of_the_encoder_is_raised_and_threads_end(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.write("a.wav", 60.0)

    def broken(windows: object) -> object:
        raise RuntimeError("no more GPU")

    monkeypatch.setattr(bench.encoders, "encode_audio", broken)
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="no more GPU"):
        bench.index()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("earshot-")]


def test_ctrl_c_keeps_what_is_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    for n in range(30):
        bench.write(f"{n:02}.wav", 4.0, 60 * (n + 1))
    batches, once = [], iter([True])
    encode = bench.encoders.encode_audio

    def counted(windows: FloatArray) -> FloatArray:
        batches.append(windows)
        return encode(windows)

    def interrupting(_: Progress) -> None:
        if len(batches) == 4 and next(once, False):
            raise KeyboardInterrupt

    monkeypatch.setattr(bench.encoders, "encode_audio", counted)
    report = bench.index(on_progress=interrupting)
    assert report.interrupted
    assert 0 < report.indexed < 30
    assert bench.ledger.totals().files == report.indexed
    rest = bench.index()
    assert rest.indexed == 30 - report.indexed
    assert bench.memory.count() == 30 * 7


@pytest.mark.parametrize("points_between", ["announce", "upsert", "flush", "set_payload"])
def test_a_crash_anywhere_in_a_save_is_completed_by_the_next_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, points_between: str
):
    shutil.copy(bench.write("a.wav"), bench.sounds / "b.wav")
    bench.write("c.wav", hz=1000)
    target = bench.ledger if points_between == "announce" else bench.memory
    real = getattr(target, points_between)

    def crash(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        raise MemoryError("crash")

    monkeypatch.setattr(target, points_between, crash)
    with pytest.raises(MemoryError):
        bench.index()
    monkeypatch.undo()
    bench.index()
    assert bench.paths() == [("a.wav", "b.wav"), ("c.wav",)]
    assert bench.memory.count() == 6
    assert bench.index().skipped == 3


def test_a_crash_while_removing_orphans_never_leaves_a_content_without_vectors(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    kept = bench.write("a.wav")
    data = kept.read_bytes()
    bench.index()
    kept.unlink()
    real = bench.memory.delete

    def crash(where: Filter) -> None:
        real(where)
        raise MemoryError("crash")

    monkeypatch.setattr(bench.memory, "delete", crash)
    with pytest.raises(MemoryError):
        bench.index(prune=True, prune_anyway=True)
    monkeypatch.undo()
    kept.write_bytes(data)
    report = bench.index()
    assert report.windows == bench.memory.count() == 3


def test_vectors_do_not_depend_on_the_batch(bench: Bench, tmp_path: Path):
    rng = np.random.default_rng(0)
    for n in range(12):
        write_sound(
            bench.sounds / f"{n}.wav", rng.normal(0, 0.1, rng.integers(100, 40_000)).astype(np.float32), rate_hz=RATE_HZ
        )
    bench.index(jobs=3)
    together = {r.id: r.vector for r in bench.memory.scroll(with_vectors=True)}
    alone = ExactMemory()
    alone.ensure_space(bench.encoders.space.space_id, bench.encoders.space.dim)
    ledger = Ledger(tmp_path / "alone.sqlite")
    for path in sorted(bench.sounds.iterdir()):
        index([path], bench.encoders, alone, ledger, IndexOptions(jobs=1))
    ledger.close()
    for record in alone.scroll(with_vectors=True):
        np.testing.assert_array_equal(record.vector, together.pop(record.id))
    assert not together
