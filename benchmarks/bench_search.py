"""How long from words to hits: warm in one process, and cold from the shell?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.targets import judge
from earshot import Library
from earshot.demo import write_sounds
from engine.audio import read_samples
from engine.memory.edge import EdgeMemory
from engine.types import FloatArray, Moment, Point, point_id

WINDOWS = 100_000
WINDOWS_A_FILE = 10
QUERIES = (
    "a dog barking",
    "rain on a roof",
    "someone typing on a keyboard",
    "a siren far away",
    "footsteps on gravel",
    "church bells",
    "an engine starting",
    "glass breaking",
)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sounds of 4 to 40 s to ask with."""
    return write_sounds(tmp_path_factory.mktemp("sounds"))[: len(QUERIES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sounds: list[Path]) -> Path:
    """A library of 100,000 windows in 10,000 files: vectors near those of words and of sounds, as real ones are."""
    folder = tmp_path_factory.mktemp("library")
    with Library(folder) as library:
        space = library._encoders.space
        heard = [
            library.encode_audio(read_samples(path, space.sample_rate_hz), space.sample_rate_hz) for path in sounds
        ]
        centres = np.concatenate([library.encode_text(QUERIES), np.stack(heard)])
    rng = np.random.default_rng(0)
    with EdgeMemory(folder / "memory" / "sounds") as memory:
        memory.ensure_space(space.space_id, space.dim)
        for first in range(0, WINDOWS, 5000):
            memory.upsert(
                [point(n, vector, space.space_id) for n, vector in enumerate(near(rng, centres, 5000), first)]
            )
        memory.optimise()
    return folder


def near(rng: np.random.Generator, centres: FloatArray, n: int) -> FloatArray:
    """Unit vectors ``[n, dim]`` scattered around mixtures of the centres ``[m, dim]``."""
    mixed = rng.dirichlet(np.full(len(centres), 0.3), n) @ centres
    noisy = mixed + rng.standard_normal((n, centres.shape[1])) * 0.06
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def point(n: int, vector: FloatArray, space_id: str) -> Point:
    file, window = divmod(n, WINDOWS_A_FILE)
    sha256 = f"{file:064x}"
    payload = {
        "sha256": sha256,
        "paths": [f"/archive/{file % 97:03}/recording {file:05}.wav"],
        "window": window,
        "start_s": float(window),
        "end_s": window + 2.0,
        "duration_s": WINDOWS_A_FILE + 1.0,
        "format": "wav",
        "sample_rate_hz": 48_000,
        "channels": 2,
    }
    return Point(point_id(sha256, space_id, window), vector, payload)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "filters", [(), ("path~/042/",), ("duration<60",)], ids=["plain", "path filter", "duration filter"]
)
def test_words_to_hits_warm(benchmark, folder: Path, filters: tuple[str, ...]) -> None:
    """Text tower, memory, grouping and moments, k = 10, in a process that has searched before."""
    with Library(folder) as library:
        p50_ms = ask_often(
            benchmark,
            200,
            lambda n: library.search(QUERIES[n % len(QUERIES)], k=10, filters=filters, min_relevance=0),
        )
    if not filters:
        judge(benchmark, {"warm search": p50_ms})


@pytest.mark.timeout(1200)
def test_sound_to_hits_warm(benchmark, folder: Path, sounds: list[Path]) -> None:
    """Decoding and encoding a file of 4 to 14 s, memory, grouping and moments, k = 10."""
    with Library(folder) as library:
        ask_often(
            benchmark, 40, lambda n: library.search(audio=sounds[n % len(sounds)], k=10, min_relevance=0), warmup=8
        )


def ask_often(benchmark, rounds: int, ask: Callable[[int], list[Moment]], warmup: int = 20) -> float:
    """Time ``ask(n)`` for n = 0, 1 …; the median in ms."""
    times_s: list[float] = []

    def timed() -> None:
        started = time.perf_counter()
        found = ask(len(times_s))
        times_s.append(time.perf_counter() - started)
        assert len(found) == 10

    benchmark.pedantic(timed, rounds=rounds, warmup_rounds=warmup)
    times_ms = np.array(times_s[-rounds:]) * 1000
    benchmark.extra_info |= {f"p{p}_ms": round(float(np.percentile(times_ms, p)), 2) for p in (5, 50, 99)}
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    return float(np.median(times_ms))


@pytest.mark.timeout(1200)
def test_search_cold(benchmark, folder: Path) -> None:
    """`earshot search` from the shell: interpreter, model, memory and answer."""
    command = [
        sys.executable,
        "-m",
        "earshot",
        "search",
        "a dog barking",
        "--min-relevance",
        "0",
        "--library",
        str(folder),
        "--json",
    ]
    found = benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True), rounds=7, warmup_rounds=1
    )
    assert len(json.loads(found.stdout)) == 10
    if not benchmark.disabled:
        judge(benchmark, {"cold search": benchmark.stats.stats.median})
