"""How many points a second do the two memories take?

Of the server's, only what it costs on this side: no real server ran here. The other side is a process that takes the
points, by REST or by gRPC on a real port, and throws them away (``benchmarks/sink.py``); it is Python too, and what it
costs there is no figure of Qdrant's. So beside the rate stands how many points the client could send with one core.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.windows import DIM, SPACE, batches, clustered, window_of
from engine.memory.base import Memory
from engine.memory.edge import EdgeMemory
from engine.memory.server import ServerMemory
from engine.memory.server_options import ServerOptions
from engine.types import Point

POINTS = 10_000
#: As many as the indexer writes at once.
AT_ONCE = 2048
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def points() -> list[Point]:
    """What is written: points as the indexer would make them."""
    return [window_of(index, vector) for index, vector in enumerate(clustered(POINTS, seed=1))]


@contextmanager
def memory_of(kind: str, folder: Path) -> Iterator[Memory]:
    """An empty memory: Edge, or a server's by one of two ways."""
    if kind == "edge":
        with EdgeMemory(folder) as edge:
            yield edge
        return
    command = [sys.executable, "-m", "benchmarks.sink"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as sink:
        assert sink.stdout is not None
        url, port = sink.stdout.readline().split()
        with ServerMemory(url, ServerOptions(grpc_port=int(port) if kind == "gRPC" else None)) as server:
            yield server
        sink.communicate()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["edge", "REST", "gRPC"])
def test_upload_10_000_points(benchmark, tmp_path: Path, points: list[Point], kind: str) -> None:
    """256 numbers and a payload each, flushed at the end."""
    cpu_s: list[float] = []
    with memory_of(kind, tmp_path / "memory") as memory:
        memory.ensure_space(SPACE, DIM)

        def upload() -> None:
            started = time.process_time()
            for some in batches(points, AT_ONCE):
                memory.upsert(some)
            memory.flush()
            cpu_s.append(time.process_time() - started)

        benchmark.pedantic(upload, rounds=3, warmup_rounds=1)
    if not benchmark.disabled:
        benchmark.extra_info["points_per_s"] = round(POINTS / benchmark.stats.stats.median)
        benchmark.extra_info["points_per_cpu_s_here"] = round(POINTS / sorted(cpu_s)[len(cpu_s) // 2])
        print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
