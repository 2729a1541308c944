"""Patch dropout on the grid of a tower that has patches, and that such a tower learns."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import ClapAudioConfig
from transformers.models.clap.modeling_clap import ClapAudioModel

from exporters.htsat import Htsat
from tests.trainer.tiny_towers import DIM as SPACE_DIM
from tests.trainer.tiny_towers import own
from trainer.patches import PatchDropout
from trainer.tower_sets import Towers

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


FRAMES, MELS = 100, 64


class Hearing(nn.Module):
    """HTSAT, as small as it gets, upon samples that are taken for log-mels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        sizes = {"depths": [1, 1], "num_attention_heads": [1, 1], "patch_embeds_hidden_size": 8, "hidden_size": 16}
        self.trunk = Htsat(ClapAudioModel(ClapAudioConfig(**sizes)).eval(), FRAMES)
        self.out = nn.Linear(16, SPACE_DIM)

    def forward(self, samples: Tensor) -> Tensor:
        return nn.functional.normalize(self.out(self.trunk(samples.reshape(-1, FRAMES, MELS))), dim=1)


def towers(share: float) -> Towers:
    source = own()
    assert source.audio is not None
    return Towers(replace(source, audio=replace(source.audio, module=Hearing())), patch_dropout=share)


def heard(towers: Towers, seed: int) -> Tensor:
    samples = torch.randn(2, FRAMES * MELS, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(seed)
    return towers.encode_audio(samples)


def test_a_tower_with_patches_loses_some_in_training_alone() -> None:
    dropping, whole = towers(0.25), towers(0.0)
    with torch.inference_mode():
        assert not torch.allclose(heard(dropping.train(), 1), heard(dropping, 2), atol=1e-4)
        assert torch.equal(heard(dropping, 1), heard(dropping, 1))
        assert torch.equal(heard(dropping.eval(), 1), heard(whole.eval(), 2))
        assert torch.equal(heard(whole.train(), 1), heard(whole.eval(), 2))


def test_all_of_a_tower_with_patches_learns() -> None:
    learning = towers(0.25).train()
    heard(learning, 1)[:, 0].sum().backward()
    still = [name for name, one in learning.audio.named_parameters() if one.grad is None or not one.grad.any()]
    assert not still
