"""What does it cost to decode in processes rather than in threads? Both in one run, on the same files.

Each way is a process of its own with two CPU cores. Decoded is to mono at the starter's rate, as for indexing; nothing
is encoded, so that this is the most that the difference can be.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sounds import write_mixed_library

CORES = 2
RUNS = 3
DECODE = """
import json, os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
cores = int(sys.argv[3])
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
from benchmarks.peak import peaks_of_children_mb
from engine.audio import open_clip
from engine.bundle import open_bundle
from indexer.decoding import borrowed
from indexer.tags import read_tags
rate_hz = open_bundle("starter").manifest.space.sample_rate_hz
files = sorted(path for path in Path(sys.argv[2]).rglob("*") if path.is_file())
started = time.perf_counter()

def in_thread(mine):
    samples = 0
    for path in mine:
        read_tags(path)
        samples += sum(map(len, open_clip(path, rate_hz).blocks))
    return samples

def in_process(mine):
    samples = 0
    with borrowed(bool) as worker:
        for path in mine:
            samples += sum(map(len, worker.open(path, rate_hz)[0].blocks))
    return samples

with ThreadPoolExecutor(cores) as threads:
    work = {"threads": in_thread, "processes": in_process}[sys.argv[1]]
    samples = sum(threads.map(work, [files[n::cores] for n in range(cores)]))
wall_s = time.perf_counter() - started
print(json.dumps([samples / rate_hz / wall_s, max(peaks_of_children_mb(), default=0)]))
"""
START = """
import json, time
from indexer.decoding import borrowed
started = time.perf_counter()
with borrowed(bool):
    print(json.dumps(time.perf_counter() - started))
"""


def python(code: str, *arguments: str) -> str:
    """What a program prints that runs in a process of its own."""
    return subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.timeout(1200)
def test_decode_in_threads_and_in_processes(benchmark, tmp_path: Path) -> None:
    """Some 120 files in seven kinds of container; and what one worker takes to start."""
    write_mixed_library(tmp_path / "sounds", tmp_path / "originals")
    rates: dict[str, list[float]] = {"threads": [], "processes": []}
    peak_mb = 0.0

    def both() -> None:
        nonlocal peak_mb
        for way, found in rates.items():
            rate, peak = json.loads(python(DECODE, way, str(tmp_path / "sounds"), str(CORES)))
            found.append(rate)
            peak_mb = max(peak_mb, peak)

    benchmark.pedantic(both, rounds=RUNS)
    start_s = statistics.median(json.loads(python(START)) for _ in range(RUNS))
    for way, found in rates.items():
        benchmark.extra_info[f"{way}_x_real_time_median"] = round(statistics.median(found))
    benchmark.extra_info |= {"start_ms_median": round(1000 * start_s), "worker_peak_mb": round(peak_mb)}
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
