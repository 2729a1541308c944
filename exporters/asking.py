"""A bundle asked as a search asks it: sounds are heard, then compared with words and with one another. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.audio import naming, open_clip
from engine.encoders import Encoders, encode_windows
from engine.types import FloatArray
from engine.windows import cut


def hear(encoders: Encoders, paths: Sequence[Path]) -> list[FloatArray]:
    """Each sound's window vectors ``[windows, dim]``."""
    heard = []
    for path in paths:
        with naming(path):
            windows = cut(open_clip(path, encoders.space.sample_rate_hz).blocks, encoders.space)
            heard.append(np.stack([vector for _, vector in encode_windows(encoders.audio, windows)]))
    return heard


def best_windows(texts: FloatArray, heard: Sequence[FloatArray]) -> FloatArray:
    """``[texts, dim]`` and sounds of ``[windows, dim]`` -> ``[texts, sounds]``: each sound's best cosine."""
    return np.stack([(texts @ vectors.T).max(axis=1) for vectors in heard], axis=1)


def similar(asked: Sequence[FloatArray], heard: Sequence[FloatArray]) -> FloatArray:
    """Sounds to search with, ``[m, dim]`` each, and sounds of ``[windows, dim]`` -> ``[asked, sounds]``.

    As the engine scores them: the mean over m of the sound's best cosine.
    """
    best = best_windows(np.concatenate(asked), heard)
    counts = np.array([len(vectors) for vectors in asked])
    starts = np.append(0, np.cumsum(counts)[:-1])
    return np.asarray(np.add.reduceat(best, starts, axis=0) / counts[:, None], np.float32)
