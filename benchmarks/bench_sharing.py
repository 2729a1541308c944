"""How long does a search take while another process indexes into the same library, or builds its index?

The one who asks and the one who works are processes of their own, as people on one machine are; with two cores they
share what is left of these.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from benchmarks.library import QUERIES, fill_library
from benchmarks.sounds import write_mixed_library
from earshot import Library

#: Enough for a graph, so that building it takes a while.
WINDOWS = 40_000
ROUNDS = 100
PAUSE_S = 0.02

INDEX = """
import sys
from earshot import Library
with Library(sys.argv[1], device="cpu") as library:
    report = library.index([sys.argv[2]], on_progress=lambda _: print("busy", flush=True))
assert report.windows > 0
"""
OPTIMISE = """
import sys, time
from earshot.keep import keep_at
from engine.types import Space
keep = keep_at(sys.argv[1])
space = Space(*keep.known_space(), 0, 0.0, 0.0, "repeat")
with keep.writing(space, lambda memory: None, 10.0, print) as memory:
    print("busy", flush=True)
    started = time.perf_counter()
    memory.optimise()
    print(time.perf_counter() - started, flush=True)
keep.close()
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library without a graph yet."""
    folder = tmp_path_factory.mktemp("sharing") / "plain"
    fill_library(folder, WINDOWS, optimise=False)
    return folder


@contextmanager
def at_work(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of it."""
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        try:
            yield process
        finally:
            process.kill()


def ask(library: Library, n: int) -> float:
    """Seconds for the n-th search."""
    started = time.perf_counter()
    found = library.search(QUERIES[n % len(QUERIES)], k=10, min_relevance=0)
    took_s = time.perf_counter() - started
    assert len(found) == 10
    return took_s


def ask_while(library: Library, process: subprocess.Popen[str]) -> list[float]:
    """Seconds of every search until the process ends; a person's pace, not a storm."""
    times_s = []
    while process.poll() is None:
        times_s.append(ask(library, len(times_s)))
        time.sleep(PAUSE_S)
    return times_s


def tell(benchmark, times_s: list[float], **more: object) -> None:
    """Keep the median and the 99th percentile of the searches, and ``more``, for the report."""
    times_ms = np.array(times_s) * 1000
    benchmark.extra_info |= {"searches": len(times_s)}
    benchmark.extra_info |= {f"p{p}_ms": round(float(np.percentile(times_ms, p)), 2) for p in (50, 99)}
    benchmark.extra_info |= more
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")


@pytest.mark.timeout(1200)
def test_search_while_the_index_is_built(benchmark, plain: Path) -> None:
    """`optimise` of 40,000 windows by another process; words to hits meanwhile, asked of that process."""

    def meanwhile() -> None:
        with Library(plain, device="cpu") as library:
            library.encode_text(["warm"])
            with at_work(OPTIMISE, str(plain)) as process:
                times_s = ask_while(library, process)
                assert process.stdout is not None
                took_s = float(process.stdout.readline())
        assert process.returncode == 0
        tell(benchmark, times_s, build_s=round(took_s, 1), points_per_s=round(WINDOWS / took_s))

    benchmark.pedantic(meanwhile, rounds=1)


@pytest.mark.timeout(1200)
def test_search_while_indexing(benchmark, plain: Path, tmp_path: Path) -> None:
    """`index` of some 120 files by another process; words to hits meanwhile, asked of that process."""
    write_mixed_library(tmp_path / "sounds", tmp_path / "originals")

    def meanwhile() -> None:
        with Library(plain, device="cpu") as library:
            library.encode_text(["warm"])
            with at_work(INDEX, str(plain), str(tmp_path / "sounds")) as process:
                times_s = ask_while(library, process)
                assert process.stdout is not None
                process.stdout.read()
        assert process.returncode == 0
        tell(benchmark, times_s)

    benchmark.pedantic(meanwhile, rounds=1)


@pytest.mark.timeout(1200)
def test_search_while_nobody_else_is_there(benchmark, plain: Path) -> None:
    """The same library and words, to compare with."""
    with Library(plain, device="cpu") as library:
        ask(library, 0)
        times_s: list[float] = []
        benchmark.pedantic(lambda: times_s.append(ask(library, len(times_s))), rounds=ROUNDS)
        tell(benchmark, times_s)
