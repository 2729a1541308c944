"""What the threads of a run share stays small, however large a model's windows are."""

from __future__ import annotations

import pytest

from engine.encoders import BATCH_WINDOWS
from engine.types import Space
from indexer import flow, pipeline
from indexer.flow import MAX_WINDOW_BYTES, MAX_WINDOWS, Flow, most_windows
from tests.indexer.bench import Bench


def space(window_s: float, rate_hz: int) -> Space:
    return Space("any@000000000000", 8, rate_hz, window_s, window_s / 2, "zero")


def test_windows_wait_by_their_size() -> None:
    large = space(10.0, 48_000)
    assert BATCH_WINDOWS < most_windows(large) < MAX_WINDOWS
    assert most_windows(large) * large.window_samples * 4 <= MAX_WINDOW_BYTES
    assert most_windows(space(1.94, 16_000)) == MAX_WINDOWS
    assert most_windows(space(60.0, 48_000)) == BATCH_WINDOWS, "less would keep the encoder waiting"


def test_a_run_keeps_to_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Flow] = []

    def kept(**queues: object) -> Flow:
        made.append(Flow(**queues))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(pipeline, "Flow", kept)
    monkeypatch.setattr(flow, "MAX_WINDOW_BYTES", 20 * 4 * bench.encoders.space.window_samples)
    bench.write("long.wav", 40.0)
    assert bench.index().windows == 79
    assert [one.heard.maxsize for one in made] == [20]
