"""Build the index of the shard in one folder: ``python edge_build.py FOLDER``, a process of its own.

Qdrant holds Python's lock while it builds: measured, 26 s at 100,000 x 256 on two quiet cores, and every other thread
of the process stands still. Here it holds up nobody. It knows nothing of earshot; the settings lie in the folder.
Prints ``changed`` or ``unchanged``; what it changed is on disk by then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import qdrant_edge

_PR_SET_PDEATHSIG = 1
#: The searches that go on meanwhile come first.
_NICE = 10


def main(folder: str, parent: int) -> None:
    """Build, and end with the process that asked for it, however that ends."""
    _end_with(parent)
    os.nice(_NICE)
    shard = qdrant_edge.EdgeShard.load(folder)
    changed = shard.optimize()
    shard.flush()
    shard.close()
    if changed:
        _sync(folder)
    sys.stdout.write("changed" if changed else "unchanged")


def _end_with(parent: int) -> None:
    """No thread of Python could watch the parent while Qdrant builds, so Linux is asked to (prctl(2)).

    Elsewhere the orphan builds to its end, in a folder that the next opening removes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before we could ask
            os._exit(1)


def _sync(folder: str) -> None:
    """Return when every file below, and its name, is on disk: those that Qdrant left alone were just copied."""
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
