"""How fast is the embedded memory at 100,000 windows: writing, opening, searching, before and after ``optimise``?

Run with ``pytest benchmarks/bench_memory.py --benchmark-enable``. Each benchmark's ``extra_info`` holds what has no
time: recall against the oracle, peak RSS.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from engine.memory.base import chunks
from engine.memory.edge import EdgeMemory
from engine.memory.matching import matches
from engine.types import Clause, Filter, FloatArray, Point, point_id

SPACE, DIM, WINDOWS, FILE_WINDOWS = "bench@0123456789ab", 384, 100_000, 10
KINDS = ["rain", "siren", "clock", "engine", "wind", "steps", "door", "glass", "water", "bird", "dog", "crowd"]
FILTERS: dict[str, Filter | None] = {
    "all": None,
    "short": Filter((Clause("duration_s", "<", 5.0),)),
    "half": Filter((Clause("duration_s", "<", 300.0),)),
    "category": Filter((Clause("category", "=", "siren"),)),
    "substring": Filter((Clause("paths", "~", "RAIN TAKE"),)),
    "except": Filter((Clause("sha256", "not in", [str(number) for number in range(200)]),)),
}


def clustered(count: int, seed: int, dim: int = DIM) -> FloatArray:
    """``[count, dim]`` unit vectors around 500 centres, as sounds of kinds are."""
    centres = np.random.default_rng(0).standard_normal((500, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(500, size=count)] + 0.9 * rng.standard_normal((count, dim)).astype(np.float32)
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def window_of(index: int, vector: FloatArray) -> Point:
    """A window as the indexer writes it: ten to a file, in folders by kind."""
    number, window = divmod(index, FILE_WINDOWS)
    payload = {
        "sha256": str(number),
        "paths": [f"/library/{KINDS[number % 12]}/{KINDS[number % 7]} take {number:06d}.wav"],
        "title": f"{KINDS[number % 12]} {number}",
        "category": KINDS[number % 12],
        "format": "wav",
        "duration_s": number % 600 + 0.5,
        "sample_rate_hz": 48_000,
        "channels": 1 + number % 2,
        "window": window,
        "start_s": 2.5 * window,
        "end_s": 2.5 * window + 5,
    }
    return Point(point_id(str(number), SPACE, window), vector, payload)


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return [window_of(index, vector) for index, vector in enumerate(clustered(WINDOWS, seed=1))]


@pytest.fixture(scope="module")
def queries() -> FloatArray:
    return clustered(100, seed=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, points: list[Point]) -> Iterator[EdgeMemory]:
    """All windows written, nothing optimised yet; the tests below stand in the order of a library's life."""
    with EdgeMemory(tmp_path_factory.mktemp("memory")) as memory:
        memory.ensure_space(SPACE, DIM)
        for batch in chunks(points, 256):
            memory.upsert(batch)
        memory.flush()
        yield memory


def searching(memory: EdgeMemory, queries: FloatArray, where: Filter | None) -> Callable[[], object]:
    """A call that searches for the next query, 50 hits."""
    turns = itertools.cycle(queries)
    return lambda: memory.search(next(turns), 50, where)


def test_upsert_10_000(benchmark: BenchmarkFixture, tmp_path: Path, points: list[Point]) -> None:
    with EdgeMemory(tmp_path) as memory:
        memory.ensure_space(SPACE, DIM)

        def write() -> None:
            for batch in chunks(points[:10_000], 256):
                memory.upsert(batch)
            memory.flush()

        benchmark.pedantic(write, rounds=3)


@pytest.mark.parametrize("name", ["all", "substring"])
def test_search_before_optimise(name: str, benchmark: BenchmarkFixture, built: EdgeMemory, queries: FloatArray) -> None:
    benchmark.pedantic(searching(built, queries, FILTERS[name]), rounds=100)


def test_optimise(benchmark: BenchmarkFixture, built: EdgeMemory) -> None:
    benchmark.pedantic(built.optimise, rounds=1)
    benchmark.extra_info["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("name", FILTERS)
def test_search(
    name: str, benchmark: BenchmarkFixture, built: EdgeMemory, queries: FloatArray, points: list[Point]
) -> None:
    built.optimise()
    where = FILTERS[name]
    benchmark.pedantic(searching(built, queries, where), rounds=300, warmup_rounds=20)
    matching = [point for point in points if matches(point.payload, where)]
    vectors = np.stack([point.vector for point in matching])
    right = 0
    for query in queries:
        best = np.argpartition(-(vectors @ query), 10)[:10]
        right += len({matching[i].id for i in best} & {hit.id for hit in built.search(query, 10, where)})
    benchmark.extra_info["recall_at_10"] = right / (10 * len(queries))


def test_open_and_search(benchmark: BenchmarkFixture, built: EdgeMemory, queries: FloatArray) -> None:
    """Comes last: it closes the shared memory, for only one may hold the shard."""
    built.optimise()
    built.close()

    def open_and_search() -> None:
        with EdgeMemory(built.folder) as memory:
            memory.ensure_space(SPACE, DIM)
            memory.search(queries[0], 50)

    benchmark.pedantic(open_and_search, rounds=5)
