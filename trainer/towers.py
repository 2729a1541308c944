"""The audio tower before its first step: the teacher's own trunk and tags, and the meanings of its classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from exporters.towers import AudioConfig, AudioTower

#: Chances are flattened by this power before they weigh the classes' meanings: best of 0.5 to 2 on held-out clips.
SHARPNESS = 0.85


def new_audio_tower(config: AudioConfig, teacher: Mapping[str, Tensor], meanings: Tensor, seed: int) -> AudioTower:
    """A tower that begins as the teacher (a student from its teacher's layers: arXiv:1910.01108, section 3).

    ``teacher`` fits ``config``; ``meanings`` are unit vectors ``[classes, dim]`` of the classes' names. The detail
    says nothing yet.
    """
    torch.manual_seed(seed)
    tower = AudioTower(config)
    tower.load_state_dict({**tower.state_dict(), **teacher})
    with torch.no_grad():
        tower.meanings.weight.copy_(meanings.T)
        tower.meanings.bias.zero_()
        tower.sharpness.fill_(SHARPNESS)
        tower.detail[2].weight.zero_()
        tower.detail[2].bias.zero_()
    return tower
