"""Ctrl-C, once and often: what is in hand is saved, nothing half heard stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.encoders import BATCH_WINDOWS
from engine.types import FloatArray, Point
from indexer import writer
from indexer.report import Progress
from tests.indexer.bench import Bench


@pytest.fixture
def ctrl_c_at(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """Press Ctrl-C inside the n-th call of the encoder."""

    def arrange(number: int) -> None:
        calls = 0
        encode = bench.encoders.encode_audio

        def encode_audio(windows: FloatArray) -> FloatArray:
            nonlocal calls
            calls += 1
            if calls == number:
                signal.raise_signal(signal.SIGINT)
            return encode(windows)

        monkeypatch.setattr(bench.encoders, "encode_audio", encode_audio)

    return arrange


def test_the_batch_in_the_encoder_is_finished(bench: Bench, ctrl_c_at):
    for n in range(60):
        bench.write(f"{n:02}.wav", 4.0, 60 * (n + 1))
    ctrl_c_at(2)
    report = bench.index(jobs=1)
    assert report.interrupted
    assert report.indexed == 2 * BATCH_WINDOWS // 7, "two batches, seven windows a file"
    assert bench.memory.count() == bench.ledger.totals().windows == 7 * report.indexed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_more_ctrl_c_during_the_saving_lose_nothing(bench: Bench, ctrl_c_at, monkeypatch: pytest.MonkeyPatch):
    for n in range(60):
        bench.write(f"{n:02}.wav", 4.0, 60 * (n + 1))
    ctrl_c_at(2)
    upsert, presses = bench.memory.upsert, 0

    def impatient(points: Sequence[Point]) -> None:
        nonlocal presses
        presses += 1
        os.kill(os.getpid(), signal.SIGINT)
        upsert(points)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(bench.memory, "upsert", impatient)
    report = bench.index(jobs=1)
    assert presses
    assert report.interrupted
    assert bench.ledger.totals().files == report.indexed > 0
    monkeypatch.undo()
    assert bench.index().indexed == 60 - report.indexed


def test_a_long_file_cut_short_leaves_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "HELD_WINDOWS", 8)
    bench.write("long.wav", 200.0)
    early: list[int] = []

    def interrupting(progress: Progress) -> None:
        if not progress.report.interrupted and bench.memory.count():
            early.append(bench.memory.count())
            raise KeyboardInterrupt

    report = bench.index(on_progress=interrupting)
    assert report.interrupted
    assert early
    assert bench.memory.count() == 0
    assert bench.index().indexed == 1
    assert bench.memory.count() == 399


def test_what_a_file_held_before_goes_though_the_run_is_interrupted(bench: Bench, ctrl_c_at):
    bench.write("0.wav", 20.0, 500)
    bench.index()
    bench.write("0.wav", 40.0, 1000)
    for n in range(1, 30):
        bench.write(f"{n:02}.wav", 4.0, 60 * (n + 1))
    ctrl_c_at(100 // BATCH_WINDOWS + 1)  # the first file has 79 windows
    report = bench.index(jobs=1)
    assert report.interrupted
    durations = {r.payload["duration_s"] for r in bench.memory.scroll() if Path(r.payload["paths"][0]).name == "0.wav"}
    assert durations == {40.0}


def test_a_handler_of_the_programs_own_is_left_alone(bench: Bench):
    bench.write("a.wav")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert bench.index().indexed == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_building_of_the_index(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.write("a.wav", 4.0, 500)
    monkeypatch.setattr(bench.memory, "optimise", lambda: signal.raise_signal(signal.SIGINT))
    report = bench.index()
    assert report.interrupted
    assert report.indexed == 1
    assert bench.memory.count() == bench.ledger.totals().windows == report.windows
