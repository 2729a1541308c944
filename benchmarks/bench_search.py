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

from benchmarks.library import QUERIES, fill_library
from benchmarks.targets import judge
from earshot import Library
from earshot.demo import write_sounds
from engine.audio import read_samples
from engine.types import Moment

WINDOWS = 100_000


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sounds of 4 to 40 s to ask with."""
    return write_sounds(tmp_path_factory.mktemp("sounds"))[: len(QUERIES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sounds: list[Path]) -> Path:
    """A library of 100,000 windows in 10,000 files: vectors near those of words and of sounds, as real ones are."""
    folder = tmp_path_factory.mktemp("library")
    with Library(folder) as library:
        rate_hz = library._encoders.space.sample_rate_hz
        heard = [library.encode_audio(read_samples(path, rate_hz), rate_hz) for path in sounds]
    fill_library(folder, WINDOWS, heard)
    return folder


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
