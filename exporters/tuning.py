"""How does a card run an audio graph fastest? Asked on the machine where a bundle is made, if it has one."""

from __future__ import annotations

from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, get_args

import numpy as np

from engine.bundle import Arena, AudioTower, ConvSearch, CudaOptions
from engine.encoders import BATCH_WINDOWS
from engine.errors import BundleError, DeviceError
from engine.session import CUDA, Session

#: Calls before those that count (buffers, searches, recordings), and calls that count.
WARM_UPS, ROUNDS = 3, 10
#: An arena that grows by doubling, and so takes more of the card than it needs, must save this share of a batch's time.
WORTH_DOUBLING = 0.03


def tune(folder: Path, tower: AudioTower) -> dict[str, Any]:
    """The manifest's ``cuda`` section for an audio graph: the fastest options, and what a batch took with each, in ms.

    Options with which the graph doesn't run on this card are left out; where none is left the section is empty.
    """
    took: dict[CudaOptions, float] = {}
    for search, arena, graphs in product(get_args(ConvSearch), get_args(Arena), (False, True)):
        options = CudaOptions(search, arena=arena, graphs=graphs)
        try:
            took[options] = _batch_s(folder / tower.graph, tower, options)
        except (BundleError, DeviceError):
            continue
    if not took:
        return {}
    best = min(took, key=lambda one: took[one] * (1 if one.arena == CUDA.arena else 1 + WORTH_DOUBLING))
    figures = {
        f"{one.conv_search}{', doubling' * (one.arena != CUDA.arena)}{', recorded' * one.graphs}": round(1e3 * s, 3)
        for one, s in took.items()
    }
    return {tower.graph: {**asdict(best), "batch_ms": figures}}


def _batch_s(graph: Path, tower: AudioTower, options: CudaOptions) -> float:
    """Seconds of a batch, the median of ``ROUNDS``, copies to the card and back included."""
    session = Session(graph, "cuda", cuda=options)
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (BATCH_WINDOWS, round(tower.window_s * tower.sample_rate_hz)))
    feeds = {"samples": samples.astype(np.float32)}
    times = []
    for _ in range(WARM_UPS + ROUNDS):
        began = perf_counter()
        session.run(feeds)
        times.append(perf_counter() - began)
    return median(times[WARM_UPS:])
