"""The audio tower before its first step: the teacher's own layers, fewer of them, and the classes' meanings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from exporters.towers import AudioConfig, AudioTower

#: Chances are flattened by this power before they weigh the classes' meanings: best of 0.5 to 2 on held-out clips.
SHARPNESS = 0.7


def without_blocks(config: AudioConfig, dropped: Sequence[int]) -> AudioConfig:
    """The configuration without some of the trunk's blocks, which must not change shape."""
    return replace(config, blocks=tuple(b for i, b in enumerate(config.blocks) if i not in dropped))


def new_audio_tower(
    config: AudioConfig, teacher: Mapping[str, Tensor], meanings: Tensor, seed: int, dropped: Sequence[int] = ()
) -> AudioTower:
    """A tower that begins as the teacher (arXiv:1910.01108, section 3: a student of every other layer).

    ``config`` is the teacher's own; ``dropped`` blocks are left out. ``meanings`` are unit vectors ``[classes, dim]``
    of the classes' names.
    """
    torch.manual_seed(seed)
    tower = AudioTower(without_blocks(config, dropped))
    kept = [i for i in range(len(config.blocks)) if i not in dropped]
    state = tower.state_dict()
    for name, value in teacher.items():
        if name.startswith("trunk.blocks."):
            block, rest = name.removeprefix("trunk.blocks.").split(".", 1)
            if int(block) not in kept:
                continue
            name = f"trunk.blocks.{kept.index(int(block))}.{rest}"
        state[name] = value
    tower.load_state_dict(state)
    with torch.no_grad():
        tower.meanings.weight.copy_(meanings.T)
        tower.meanings.bias.zero_()
        tower.sharpness.fill_(SHARPNESS)
        tower.detail[2].weight.zero_()
        tower.detail[2].bias.zero_()
    return tower
