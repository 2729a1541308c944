"""Long recordings in bounded memory: 3 h here, 24 h in `make fuzz`; the file is sparse, so that it costs no disk."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

HOURS = 24 if os.environ.get("EARSHOT_LONG") else 3
RATE_HZ = 8000
RUN = r"""
import json, sys
from benchmarks.peak import peak_mb, peaks_of_children_mb
from earshot import Library
from engine.fakes import FakeEncoders
with Library(sys.argv[1], encoders=FakeEncoders(window_s=10.0, hop_s=10.0)) as library:
    report = library.index([sys.argv[2]])
    library.check()
    [moment] = library.search("band500", min_relevance=0)
peaks = [peak_mb(), max(peaks_of_children_mb())]
print(json.dumps([report.windows, report.audio_s, report.failed, moment.duration_s, *peaks]))
"""


@pytest.mark.timeout(1800)
def test_a_long_recording_takes_bounded_memory(tmp_path: Path):
    size = HOURS * 3600 * RATE_HZ
    fmt = struct.pack("<HHIIHH", 1, 1, RATE_HZ, RATE_HZ, 1, 8)
    with (tmp_path / "long.wav").open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + fmt)
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)
        for at in range(0, size, size // 50):  # not the same all the way
            file.seek(44 + at)
            file.write(bytes(range(256)) * 8)
    command = [sys.executable, "-c", RUN, str(tmp_path / "library"), str(tmp_path / "long.wav")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    windows, audio_s, failed, duration_s, run_mb, worker_mb = json.loads(result.stdout)
    print(f"\n{HOURS} h: run {run_mb:.0f} MB, worker {worker_mb:.0f} MB")
    assert failed == []
    assert windows == HOURS * 360
    assert audio_s == duration_s == HOURS * 3600
    assert run_mb < 800  # the samples of 24 h would be 2.8 GB; what is mapped from the disk counts too
    assert worker_mb < 200
