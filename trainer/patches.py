"""Patch dropout on time and frequency for towers whose patches lie on a grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from exporters.htsat import Htsat


class PatchDropout:
    """A forward hook on HTSAT's patches: in training, a share of the times and of the frequencies is silenced.

    The language-enhancement paper (section 3.2) drops 25 % of both from a plain transformer, which then has fewer
    tokens to look at. A Swin tower needs its whole grid, so here they become zeros, which is as much regularisation
    but no faster. The chance is torch's, so that it follows the step's seed.
    """

    def __init__(self, trunk: Htsat, share: float) -> None:
        self.share, self._ratio = share, trunk.ratio

    def __call__(self, patches: nn.Module, _: Any, tokens: Tensor) -> Tensor:
        """``tokens [batch, height * width, dim]`` in raster order: stretches of time above one another."""
        if not patches.training:
            return tokens
        side = round(tokens.shape[1] ** 0.5)
        batch, bands = tokens.shape[0], side // self._ratio
        time = torch.rand(batch, self._ratio, 1, side, device=tokens.device) >= self.share
        frequency = torch.rand(batch, 1, bands, 1, device=tokens.device) >= self.share
        return tokens * (time & frequency).reshape(batch, -1, 1).to(tokens.dtype)
