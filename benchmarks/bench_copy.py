"""How fast is `earshot copy` from folder to folder, comparison included, and in how much memory?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.library import fill_library

WINDOWS = 40_000
COPY = r"""
import json, sys
from benchmarks.peak import peak_mb
from earshot.copying import copy_library
report = copy_library(sys.argv[1], sys.argv[2]).to_dict()
report["peak_mb"] = round(peak_mb())
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not optimised, so that building the graph does not hide what copying costs; the copy builds its own."""
    folder = tmp_path_factory.mktemp("source") / "library"
    fill_library(folder, WINDOWS, optimise=False)
    return folder


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("again", [False, True], ids=["new", "brought up to date"])
def test_copy(benchmark, source: Path, again: bool) -> None:
    """A process of its own, so that its peak is its own. A new copy builds its graph, too."""
    command = [sys.executable, "-c", COPY, str(source), str(source.parent / "copy")]
    done = benchmark.pedantic(lambda: subprocess.run(command, check=True, capture_output=True, text=True), rounds=1)
    report = json.loads(done.stdout)
    assert report["written"] == (0 if again else WINDOWS)
    benchmark.extra_info |= {key: report[key] for key in ("windows", "written", "peak_mb")}
    benchmark.extra_info["windows_per_s"] = round(WINDOWS / report["wall_s"])
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
