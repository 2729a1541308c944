"""Where training and hearing run: on a card where torch has one, else on the processor."""

from __future__ import annotations

import torch
from torch import nn

from engine.errors import DeviceError

DEVICES = ("cpu", "cuda")


def chosen_device(name: str | None = None) -> torch.device:
    """The device called ``name``, or the best there is. Raises ``DeviceError`` where it isn't there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("no CUDA device that torch can use", "one, for --device cuda", "leave --device out")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights lie: what it is given must lie there, too."""
    return next(module.parameters()).device
