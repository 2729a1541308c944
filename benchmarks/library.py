"""A library of any number of windows without hearing anything: points near those of words, and the rows of a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from earshot import Library
from engine.memory.edge import EdgeMemory
from engine.types import FloatArray, Point, point_id
from indexer.ledger import Ledger

QUERIES = (
    "a dog barking",
    "rain on a roof",
    "someone typing on a keyboard",
    "a siren far away",
    "footsteps on gravel",
    "church bells",
    "an engine starting",
    "glass breaking",
)
WINDOWS_A_FILE = 10
_AT_ONCE = 5000


def fill_library(folder: Path, windows: int, vectors: Sequence[FloatArray] = (), *, optimise: bool = True) -> None:
    """Make a library of the starter's with ``windows`` scattered about the queries and ``vectors`` ``[dim]``."""
    with Library(folder, device="cpu") as library:
        centres = np.concatenate([library.encode_text(QUERIES), *(vector[None] for vector in vectors)])
        space_id = library.space_id
    rng = np.random.default_rng(0)
    with EdgeMemory(folder / "memory" / "sounds") as memory:
        memory.ensure_space(space_id, centres.shape[1])
        for first in range(0, windows, _AT_ONCE):
            some = near(rng, centres, min(_AT_ONCE, windows - first))
            memory.upsert([point(n, vector, space_id) for n, vector in enumerate(some, first)])
        if optimise:
            memory.optimise()
    ledger = Ledger(folder / "ledger.sqlite")
    with ledger.transaction():
        for n in range(0, windows, WINDOWS_A_FILE):
            sha256, path = content(n)
            ledger.complete(sha256, min(WINDOWS_A_FILE, windows - n), WINDOWS_A_FILE + 1.0)
            ledger.assign(path, 1000, 0, sha256)
    ledger.close()


def near(rng: np.random.Generator, centres: FloatArray, n: int) -> FloatArray:
    """Unit vectors ``[n, dim]`` scattered around mixtures of the centres ``[m, dim]``."""
    mixed = rng.dirichlet(np.full(len(centres), 0.3), n) @ centres
    noisy = mixed + rng.standard_normal((n, centres.shape[1])) * 0.06
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def content(n: int) -> tuple[str, Path]:
    """The content and the path of the n-th window."""
    file = n // WINDOWS_A_FILE
    return f"{file:064x}", Path(f"/archive/{file % 97:03}/recording {file:05}.wav")


def point(n: int, vector: FloatArray, space_id: str) -> Point:
    """The n-th window as the indexer writes it."""
    (sha256, path), window = content(n), n % WINDOWS_A_FILE
    payload = {
        "sha256": sha256,
        "paths": [str(path)],
        "window": window,
        "windows": WINDOWS_A_FILE,
        "start_s": float(window),
        "end_s": window + 2.0,
        "duration_s": WINDOWS_A_FILE + 1.0,
        "format": "wav",
        "sample_rate_hz": 48_000,
        "channels": 2,
    }
    return Point(point_id(sha256, space_id, window), vector, payload)
