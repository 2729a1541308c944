"""The most memory that processes have had.

``ru_maxrss`` is of no use here: it counts what a process's parent had, from before it became a program of its own.
"""

from __future__ import annotations

import re
from pathlib import Path


def peak_mb(process: str = "self") -> float:
    """The most that a process which is still there has had in RAM, in MB (Linux: proc(5), VmHWM)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) / 1024  # type: ignore[index]


def peaks_of_children_mb() -> list[float]:
    """The same of each process that this one has started and that has not ended."""
    children = {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}
    return [peak_mb(pid) for pid in sorted(children)]
