"""How fast is the embedded memory at 100,000 windows: writing, opening, searching, before and after ``optimise``?

Run with ``pytest benchmarks/bench_memory.py --benchmark-enable``. Each benchmark's ``extra_info`` holds what has no
time: recall against the oracle, resident memory in MB.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.windows import DIM, SPACE, WINDOWS, batches, clustered, window_of
from engine.memory.edge import EdgeMemory
from engine.memory.matching import matches
from engine.types import Clause, Filter, FloatArray, Point

ROOT = Path(__file__).parents[1]
FILTERS: dict[str, Filter | None] = {
    "all": None,
    "short": Filter((Clause("duration_s", "<", 5.0),)),
    "half": Filter((Clause("duration_s", "<", 300.0),)),
    "category": Filter((Clause("category", "=", "siren"),)),
    "substring": Filter((Clause("paths", "~", "RAIN TAKE"),)),
    "except": Filter((Clause("sha256", "not in", [f"{number:064x}" for number in range(200)]),)),
}


@pytest.fixture(scope="module")
def points() -> list[Point]:
    """All windows, as the indexer would write them."""
    return [window_of(index, vector) for index, vector in enumerate(clustered(WINDOWS, seed=1))]


@pytest.fixture(scope="module")
def queries() -> FloatArray:
    """A hundred vectors of the same clusters ``[100, dim]``."""
    return clustered(100, seed=2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, points: list[Point]) -> Iterator[EdgeMemory]:
    """All windows written, nothing optimised yet; the tests below stand in the order of a library's life."""
    with EdgeMemory(tmp_path_factory.mktemp("memory")) as memory:
        memory.ensure_space(SPACE, DIM)
        for batch in batches(points, 256):
            memory.upsert(batch)
        memory.flush()
        yield memory


def searching(memory: EdgeMemory, queries: FloatArray, where: Filter | None) -> Callable[[], object]:
    """A call that searches for the next query, 50 hits."""
    turns = itertools.cycle(queries)
    return lambda: memory.search(next(turns), 50, where)


@pytest.mark.timeout(1200)
def test_fill_in_a_process_of_its_own(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Write and optimise all windows where nothing else takes memory; no target, for it grows with the library.

    At 100,000 x 256 the peak is about 800 MB, of which two thirds are mapped files that the system may drop: while
    it builds, Qdrant maps the old vectors twice and the new ones once. Of its own memory, a numeric index takes 20 MB.
    An unindexed ``window`` would save that, but growing a moment in a file of 10,000 windows takes 40 ms instead of 1.
    """
    command = [sys.executable, "-m", "benchmarks.fill", str(tmp_path / "memory"), str(WINDOWS)]
    done = benchmark.pedantic(
        lambda: subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT), rounds=1
    )
    benchmark.extra_info |= json.loads(done.stdout)
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")


@pytest.mark.parametrize("name", ["all", "substring"])
def test_search_before_optimise(name: str, benchmark: BenchmarkFixture, built: EdgeMemory, queries: FloatArray) -> None:
    """Hits while all windows are compared, one by one."""
    benchmark.pedantic(searching(built, queries, FILTERS[name]), rounds=100)


def test_optimise(benchmark: BenchmarkFixture, built: EdgeMemory) -> None:
    """The graph over all windows, once."""
    benchmark.pedantic(built.optimise, rounds=1)
    if not benchmark.disabled:
        benchmark.extra_info["points_per_s"] = round(WINDOWS / benchmark.stats.stats.median)


@pytest.mark.parametrize("name", FILTERS)
def test_search(
    name: str, benchmark: BenchmarkFixture, built: EdgeMemory, queries: FloatArray, points: list[Point]
) -> None:
    """Hits by the graph, and which share of the ten nearest they hold."""
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
