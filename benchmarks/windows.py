"""Synthetic windows as an indexer would write them: vectors in clusters, ten windows to a file, folders by kind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.types import FloatArray, Point, point_id

SPACE, DIM, WINDOWS, FILE_WINDOWS = "bench@0123456789ab", 256, 100_000, 10
KINDS = ["rain", "siren", "clock", "engine", "wind", "steps", "door", "glass", "water", "bird", "dog", "crowd"]


def clustered(count: int, seed: int, dim: int = DIM) -> FloatArray:
    """``[count, dim]`` unit vectors around 500 centres, as sounds of kinds are."""
    centres = np.random.default_rng(0).standard_normal((500, dim), dtype=np.float32)
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(500, size=count)] + 0.9 * rng.standard_normal((count, dim), dtype=np.float32)
    unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def window_of(index: int, vector: FloatArray) -> Point:
    """A window as the indexer writes it."""
    number, window = divmod(index, FILE_WINDOWS)
    sha256 = f"{number:064x}"
    payload = {
        "sha256": sha256,
        "paths": [f"/library/{KINDS[number % 12]}/{KINDS[number % 7]} take {number:06d}.wav"],
        "title": f"{KINDS[number % 12]} {number}",
        "category": KINDS[number % 12],
        "format": "wav",
        "duration_s": number % 600 + 0.5,
        "sample_rate_hz": 48_000,
        "channels": 1 + number % 2,
        "window": window,
        "start_s": 2.5 * window,
        "end_s": 2.5 * window + 5,
    }
    return Point(point_id(sha256, SPACE, window), vector, payload)


def batches(points: Sequence[Point], size: int) -> Iterator[Sequence[Point]]:
    """The points, ``size`` at a time."""
    return (points[first : first + size] for first in range(0, len(points), size))
