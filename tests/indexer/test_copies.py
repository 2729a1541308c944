"""One content at several paths: reasons of the one are not reasons of the other, and all their names are kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from engine.errors import AudioError
from indexer.decoding import Worker
from indexer.paths import text_path
from indexer.pipeline import IndexOptions, index
from tests.indexer.bench import RATE_HZ, Bench
from tests.sounds import riff, tone, write_sound


def twins(bench: Bench, *names: str) -> list[Path]:
    first = bench.write(names[0])
    return [first, *(Path(shutil.copy(first, bench.sounds / name)) for name in names[1:])]


@pytest.mark.parametrize("count", [1, 2])
def test_a_copy_is_heard_where_the_first_ones_change_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, count: int
):
    twins(bench, "a.wav", "b.wav", "c.wav")
    changed: list[str] = []
    real = Worker.open

    def touching(worker: Worker, path: Path, sample_rate_hz: int) -> object:
        if len(changed) < count:
            changed.append(path.name)
            os.utime(path, ns=(1, 1))
        return real(worker, path, sample_rate_hz)

    monkeypatch.setattr(Worker, "open", touching)
    report = bench.index()
    assert report.indexed == 3 - count
    assert sorted(Path(path).name for path, _ in report.failed) == sorted(changed)
    assert all("changed" in reason for _, reason in report.failed)
    assert bench.memory.count() == 3
    assert bench.index().indexed == count, "what changed is tried again by any run"
    assert bench.paths() == [("a.wav", "b.wav", "c.wav")]


def test_a_copy_is_heard_where_the_first_vanishes(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    twins(bench, "a.wav", "b.wav")
    vanished: list[Path] = []
    real = Worker.open

    def vanishing(worker: Worker, path: Path, sample_rate_hz: int) -> object:
        if not vanished:
            path.unlink()
            vanished.append(path)
        return real(worker, path, sample_rate_hz)

    monkeypatch.setattr(Worker, "open", vanishing)
    report = bench.index()
    assert (report.indexed, [Path(path) for path, _ in report.failed]) == (1, vanished)


def test_a_file_that_could_not_be_read_is_tried_by_every_run(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.write("a.wav")

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("indexer.hearing.sha256_of", refuse)
    assert "Permission denied" in bench.index().failed[0][1]
    assert "Permission denied" in bench.index().failed[0][1]
    monkeypatch.undo()
    assert bench.index().indexed == 1


def test_a_reason_about_the_content_is_the_reason_of_all_copies(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    twins(bench, "a.wav", "b.wav")
    heard: list[Path] = []

    def broken(_: Worker, path: Path, _rate_hz: int) -> object:
        heard.append(path)
        raise AudioError("noise", "a sound")

    monkeypatch.setattr(Worker, "open", broken)
    assert len(bench.index(jobs=1).failed) == 2
    assert len(heard) == 1
    assert bench.index().skipped_failed == 2


def test_a_long_copy_that_shrinks_while_it_is_heard_leaves_no_windows(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.writer.HELD_WINDOWS", 4)
    first, _ = twins(bench, "a.wav", "b.wav")
    real = Worker.open
    opened: list[Path] = []

    def growing(worker: Worker, path: Path, sample_rate_hz: int) -> object:
        opened.append(path)
        if len(opened) == 1:
            write_sound(path, tone(30.0, rate_hz=RATE_HZ), rate_hz=RATE_HZ)
        return real(worker, path, sample_rate_hz)

    monkeypatch.setattr(Worker, "open", growing)
    report = bench.index(jobs=1)
    assert (report.indexed, len(report.failed)) == (1, 1)
    assert bench.memory.count() == bench.ledger.totals().windows == 3
    assert first in opened


def payloads(bench: Bench, *keys: str) -> set[tuple[object, ...]]:
    return {tuple(record.payload.get(key) for key in keys) for record in bench.memory.scroll()}


def test_a_new_name_brings_its_category_and_words(bench: Bench):
    path = bench.write("AMBForst_Birds In Morning_XY_01.wav")
    bench.index()
    assert payloads(bench, "category", "words") == {("AMBIENCE", "birds in morning")}
    path = path.rename(bench.sounds / "DOORWood_Slam Hard_XY_01.wav")
    assert bench.index().windows == 0
    assert payloads(bench, "category", "words") == {("DOORS", "slam hard")}
    path.rename(bench.sounds / "1.wav")
    bench.index()
    assert payloads(bench, "category", "words") == {(None, None)}


def test_copies_are_found_by_the_words_of_each_name(bench: Bench):
    twins(bench, "creaking gate.wav", "Old_Door 02.wav", "old door.wav")
    bench.index()
    assert payloads(bench, "words") == {("old door; creaking gate",)}
    (bench.sounds / "creaking gate.wav").unlink()
    bench.index(prune=True)
    assert payloads(bench, "words") == {("old door",)}


def test_an_embedded_category_outlives_a_new_name(bench: Bench):
    note = b"<BWFXML><USER><CATEGORY>WEATHER</CATEGORY></USER></BWFXML>"
    (bench.sounds / "DOORWood_Slam_XY_01.wav").write_bytes(riff([(b"iXML", note)], samples=16_000))
    bench.index()
    (bench.sounds / "DOORWood_Slam_XY_01.wav").rename(bench.sounds / "slam.wav")
    bench.index()
    assert payloads(bench, "category", "words") == {("WEATHER", "slam")}


def test_description_and_comment_are_both_kept(bench: Bench):
    bext = (b"bext", b"Wind in pines".ljust(256, b"\0") + bytes(346))
    info = (b"LIST", b"INFOICMT" + (8).to_bytes(4, "little") + b"from far")
    (bench.sounds / "a.wav").write_bytes(riff([bext, info], samples=16_000))
    bench.index()
    assert payloads(bench, "description") == {("Wind in pines; from far",)}


def test_a_name_that_is_not_utf8_can_be_opened_again(bench: Bench):
    odd = Path(os.fsdecode(os.fsencode(bench.sounds) + b"/caf\xe9.wav"))
    try:
        bench.write("a.wav").rename(odd)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    bench.index()
    ((text,),) = {tuple(record.payload["paths"]) for record in bench.memory.scroll()}
    assert text_path(text) == odd
    assert text_path(text).exists()


def test_a_fifo_named_as_root_is_left_out(bench: Bench):
    os.mkfifo(bench.sounds / "pipe.wav")
    report = index([bench.sounds / "pipe.wav"], bench.encoders, bench.memory, bench.ledger, IndexOptions())
    assert (report.indexed, report.left_out) == (0, {"a fifo": 1})
