"""Patch dropout on the grid of a tower that has patches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from trainer.patches import PatchDropout

#: HTSAT's grid: four stretches of time above one another, each of 16 bands by 64 times.
RATIO, SIDE, DIM = 4, 64, 3


def dropped(share: float, training: bool, batch: int = 200) -> torch.Tensor:
    torch.manual_seed(1)
    patches = nn.Identity().train(training)
    patches.register_forward_hook(PatchDropout(cast("Any", SimpleNamespace(ratio=RATIO)), share))
    return patches(torch.ones(batch, SIDE * SIDE, DIM))


def test_whole_times_and_whole_bands_are_silenced() -> None:
    grid = dropped(0.25, training=True).reshape(-1, RATIO, SIDE // RATIO, SIDE, DIM)
    assert set(grid.unique().tolist()) == {0.0, 1.0}
    kept = grid[..., 0]
    times = kept.amax(2, keepdim=True)  # a time that any band kept was not dropped, and so for bands
    bands = kept.amax((1, 3), keepdim=True)
    assert torch.equal(kept, times * bands)
    assert abs(float(times.mean()) - 0.75) < 0.02
    assert abs(float(bands.mean()) - 0.75) < 0.02
    assert not torch.equal(kept[0], kept[1])  # each clip its own


def test_nothing_is_dropped_when_vectors_are_asked_for() -> None:
    assert bool((dropped(0.25, training=False, batch=2) == 1).all())
