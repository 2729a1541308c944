"""What the machine and the libraries were, beside every figure."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pytest

LIBRARIES = ("numpy", "onnxruntime-gpu", "onnxruntime", "qdrant-edge-py", "soundfile", "soxr", "av", "tokenizers")


def versions() -> dict[str, str]:
    """Library -> installed version."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Add the cores that may be used and the versions; leave out the host's name, for reports are published."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine_info.update(node="", cores=cores, libraries=versions())
