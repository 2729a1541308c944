"""How long from words to hits: warm in one process, and cold from the shell?"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from engine.memory.edge import EdgeMemory
from engine.types import FloatArray, Point, point_id

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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of 100,000 windows in 10,000 files: vectors near those of words, as real ones are."""
    folder = tmp_path_factory.mktemp("library")
    with Library(folder) as library:
        space, centres = library._encoders.space, library.encode_text(QUERIES)
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
        times_s = []

        def ask() -> None:
            started = time.perf_counter()
            found = library.search(QUERIES[len(times_s) % len(QUERIES)], k=10, filters=filters, min_relevance=0)
            times_s.append(time.perf_counter() - started)
            assert len(found) == 10

        benchmark.pedantic(ask, rounds=200, warmup_rounds=20)
    times_ms = np.array(times_s[20:]) * 1000
    benchmark.extra_info |= {f"p{p}_ms": round(float(np.percentile(times_ms, p)), 2) for p in (5, 50, 99)}
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")


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
