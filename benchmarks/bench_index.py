"""How fast is a folder indexed, end to end, and in how much memory?

Each run is a process of its own with two CPU cores, so that its peak memory is its own. The sounds are made here:
the demo's, in mixed containers, rates and channels.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sounds import write_mixed_library, write_noise
from benchmarks.targets import judge

CORES = 2
RUNS = 3
LIMITED = r"""
import json, os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[3])])
from benchmarks.peak import peak_mb, peaks_of_children_mb
from earshot import Library
with Library(sys.argv[1], device="cpu") as library:
    report = library.index([sys.argv[2]]).to_dict()
report["peak_mb"] = peak_mb() + sum(peaks_of_children_mb())  # the decode processes wait for another run
print(json.dumps(report))
"""


def index(folder: Path, sounds: Path, run: int) -> dict[str, float]:
    """Index in a new process and a new library; the report with ``peak_mb``, that of its decode processes included."""
    command = [sys.executable, "-c", LIMITED, str(folder / f"library-{run}"), str(sounds), str(CORES)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    report: dict[str, float] = json.loads(result.stdout)
    return report


def measure(benchmark, tmp_path: Path, sounds: Path, runs: int, target: str = "") -> None:
    """Index ``runs`` times; ``target`` is the head of the names of the targets to be met."""
    reports: list[dict[str, float]] = []
    benchmark.pedantic(lambda: reports.append(index(tmp_path, sounds, len(reports))), rounds=runs)
    rates = sorted(report["audio_s"] / report["wall_s"] for report in reports)
    peaks = sorted(report["peak_mb"] for report in reports)
    benchmark.extra_info |= {
        "audio_s": reports[0]["audio_s"],
        "x_real_time_min_median_max": [round(x) for x in (rates[0], statistics.median(rates), rates[-1])],
        "peak_mb_max": round(peaks[-1]),
        "stages_s_last_run": reports[-1]["stages_s"],
    }
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    if target:
        judge(benchmark, {f"{target} rate": statistics.median(rates), f"{target} peak": peaks[-1]})


@pytest.mark.timeout(1200)
def test_index_mixed_library(benchmark, tmp_path: Path) -> None:
    """Some 120 files of 4 to 40 s, in seven kinds of container, rate and channels: the usual sound library."""
    benchmark.extra_info["files"] = write_mixed_library(tmp_path / "sounds", tmp_path / "originals")
    measure(benchmark, tmp_path, tmp_path / "sounds", RUNS, "index")


@pytest.mark.timeout(1200)
def test_index_three_hours_in_one_file(benchmark, tmp_path: Path) -> None:
    """One file of 3 h: memory must not grow with length."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    write_noise(sounds / "long.ogg", 3 * 3600, 32_000, 1, seed=0)
    measure(benchmark, tmp_path, sounds, 1, "long")


@pytest.mark.timeout(1200)
def test_index_real_sounds(benchmark, tmp_path: Path) -> None:
    """The dev split of the data beside the project, where it is present."""
    sounds = Path(__file__).parents[2] / "shared" / "data" / "sounds" / "dev"
    if not sounds.is_dir():
        pytest.skip(f"no {sounds}")
    measure(benchmark, tmp_path, sounds, RUNS)
