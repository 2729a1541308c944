"""Loaded into a decode process instead of nothing: files whose names say so do to it what broken decoders do."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.types import Clip
from indexer import decoding

decoding.BLOCK_CPU_S = 0.5
decoding.BLOCK_WAIT_S = 2.0
_open_clip = decoding.open_clip


def _spin_with_the_lock() -> None:
    """A loop in C that never lets go of Python's lock: ``pow`` of whole numbers too long for a lifetime."""
    pow(3, 1 << 40)


_DEEDS: dict[str, Callable[[], object]] = {
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hang": _spin_with_the_lock,
    "wait": lambda: time.sleep(600),
    "glut": lambda: np.ones(1 << 28),
    "throw": lambda: {}["what a decoder may throw"],
}


def _hooked(path: Path, sample_rate_hz: int) -> Clip:
    for word, deed in _DEEDS.items():
        if path.name.startswith(word):
            deed()
    return _open_clip(path, sample_rate_hz)


decoding.open_clip = _hooked
