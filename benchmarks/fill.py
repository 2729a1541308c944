"""Fill a memory in a process of its own, so that its peak is its own: ``python -m benchmarks.fill FOLDER COUNT``."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from benchmarks.windows import DIM, SPACE, clustered, window_of
from engine.memory.edge import EdgeMemory

BATCH = 250


def rss_mb() -> dict[str, int]:
    """Resident memory now, of its own (``anon``) and of mapped files (``file``), and its peak so far."""
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    except OSError:  # no Linux
        return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    fields = (("anon", "RssAnon"), ("file", "RssFile"), ("peak", "VmHWM"))
    return {key: int(status[name].split()[0]) // 1024 for key, name in fields}


def fill(folder: Path, count: int) -> dict[str, object]:
    """Write ``count`` windows and optimise; the memory and the time after each step."""
    steps: dict[str, object] = {}
    with EdgeMemory(folder) as memory:
        memory.ensure_space(SPACE, DIM)
        steps["empty"] = rss_mb()
        started = time.perf_counter()
        for first in range(0, count, BATCH):
            vectors = clustered(BATCH, seed=first)
            memory.upsert([window_of(first + n, vector) for n, vector in enumerate(vectors)])
        memory.flush()
        steps["written"] = rss_mb() | {"s": round(time.perf_counter() - started, 1)}
        started = time.perf_counter()
        memory.optimise()
        builder = {"builder_peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024}
        steps["optimised"] = rss_mb() | builder | {"s": round(time.perf_counter() - started, 1)}
    return steps


if __name__ == "__main__":
    print(json.dumps(fill(Path(sys.argv[1]), int(sys.argv[2]))))
