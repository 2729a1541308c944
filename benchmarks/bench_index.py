"""How fast is a folder indexed, end to end, and in how much memory?

Each run is a process of its own with two CPU cores, so that its peak memory is its own. The sounds are made here:
mixed containers, rates and channels, as a library has them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

CORES = 2
RUNS = 3
KINDS = (
    ("wav", 48_000, 2),
    ("flac", 44_100, 2),
    ("ogg", 44_100, 2),
    ("mp3", 44_100, 2),
    ("wav", 16_000, 1),
    ("ogg", 32_000, 1),
)
LIMITED = """
import json, os, resource, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[3])])
from earshot import Library
with Library(sys.argv[1], device="cpu") as library:
    report = library.index([sys.argv[2]]).to_dict()
report["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(report))
"""


def write_noise(path: Path, seconds: float, rate_hz: int, channels: int, seed: int) -> None:
    """Noise whose level wanders, written a minute at a time."""
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", rate_hz, channels) as file:
        left = round(seconds * rate_hz)
        while left > 0:
            frames = min(left, 60 * rate_hz)
            level = np.abs(np.sin(np.arange(frames) / rate_hz))[:, None] * 0.2
            file.write((rng.standard_normal((frames, channels)) * level).astype(np.float32))
            left -= frames


def index(folder: Path, sounds: Path, run: int) -> dict[str, float]:
    """Index in a new process and a new library; the report with ``peak_mb``."""
    command = [sys.executable, "-c", LIMITED, str(folder / f"library-{run}"), str(sounds), str(CORES)]
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    report: dict[str, float] = json.loads(result.stdout)
    return report


def measure(benchmark, tmp_path: Path, sounds: Path, runs: int) -> None:
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


@pytest.mark.timeout(1200)
def test_index_mixed_library(benchmark, tmp_path: Path) -> None:
    """120 files of 3 to 20 s: the usual sound library."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for n in range(120):
        suffix, rate_hz, channels = KINDS[n % len(KINDS)]
        write_noise(sounds / f"{n:03}.{suffix}", 3 + (n * 7) % 18, rate_hz, channels, seed=n)
    measure(benchmark, tmp_path, sounds, RUNS)


@pytest.mark.timeout(1200)
def test_index_three_hours_in_one_file(benchmark, tmp_path: Path) -> None:
    """One file of 3 h: memory must not grow with length."""
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    write_noise(sounds / "long.ogg", 3 * 3600, 32_000, 1, seed=0)
    measure(benchmark, tmp_path, sounds, 1)


@pytest.mark.timeout(1200)
def test_index_real_sounds(benchmark, tmp_path: Path) -> None:
    """The dev split of the data beside the project, where it is present."""
    sounds = Path(__file__).parents[2] / "shared" / "data" / "sounds" / "dev"
    if not sounds.is_dir():
        pytest.skip(f"no {sounds}")
    measure(benchmark, tmp_path, sounds, RUNS)
