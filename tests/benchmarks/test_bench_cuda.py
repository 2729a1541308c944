"""The benchmark for cards as far as it goes without one: on the CPU, with a small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_cuda
from benchmarks.bench_cuda import (
    BATCH_WINDOWS,
    card,
    contestants,
    heard,
    htsat,
    measured,
    require_same,
    starter,
    why_not,
)
from engine.bundle import open_bundle
from exporters.registry import load_source
from tests.sounds import tone, write_sound
from tests.trainer import tiny_towers


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> bench_cuda.Contest:
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("starter")
    tiny_towers.own(folder=place / "base")
    return starter(place, place / "base")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two sounds."""
    return [write_sound(tmp_path / f"{hz}.wav", tone(0.9, hz=hz)) for hz in (200, 900)]


def test_every_way_is_measured_and_says_the_same(contest: bench_cuda.Contest, files: list[Path]) -> None:
    ways = contestants(contest, "fp32", "cpu", backend="eager")
    found = measured(ways, open_bundle(contest.bundles["fp32"]).manifest.space, files, contest, rounds=1, warm_ups=0)
    assert ways.keys() == {"ours", "eager", "compiled"}
    for kind in ("clips/s", "audio-hours/s", "files/s, decoded first", "audio-hours/s, decoded first"):
        assert ways.keys() < found[kind].keys()
        assert all(figure >= 0 for figure in found[kind].values())
    assert found["clips/s"]["ours"] > 0


def test_files_are_heard_in_full_batches(contest: bench_cuda.Contest, files: list[Path]) -> None:
    batches: list[np.ndarray] = []
    space = open_bundle(contest.bundles["fp32"]).manifest.space
    assert heard(lambda windows: batches.append(windows) or windows, files, space) == 2
    assert [batch.shape for batch in batches] == [(BATCH_WINDOWS, space.window_samples)]
    assert not np.array_equal(batches[0][0], batches[0][1])
    assert np.array_equal(batches[0][1], batches[0][-1])


def test_ways_that_differ_are_no_contest() -> None:
    rows = np.eye(3, dtype=np.float32)
    require_same({"ours": rows, "eager": 2 * rows})
    with pytest.raises(ValueError, match=r"eager at a cosine of 0\.0000 from ours"):
        require_same({"ours": rows, "eager": rows[::-1]})


def test_the_card_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Some Card, 575.1, 81559 MiB'\necho 'Another, 575.1, 1 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bench_cuda, "version", lambda name: f"{name}'s")
    told = card()
    assert (told["card"], told["driver"], told["memory"]) == ("Some Card", "575.1", "81559 MiB")
    assert told["onnxruntime-gpu"] == "onnxruntime-gpu's"


def test_transformers_is_given_what_it_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cuda, "bundles_of", lambda *_: {})
    made = htsat(tmp_path, depths=(1, 1, 1, 1))
    audio = load_source(tmp_path / "checkpoint").audio
    assert audio is not None
    window = tone(10.0, rate_hz=48_000)[None]
    with torch.inference_mode():
        found = made.module(*made.prepare(window)).numpy()
    assert np.abs(found - audio.reference(window[0])).max() < 1e-5


@pytest.mark.skipif(not why_not(), reason="this machine has a card")
def test_without_a_card_it_is_skipped_with_the_reason(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with pytest.raises(pytest.skip.Exception, match=why_not()):
        bench_cuda.test_a_card(None, tmp_path, request, "htsat", "fp32")
