"""Channels of the teacher's trunk that never sound, found and taken out: smaller, faster, the same answers.

In a chain of ReLU6 layers a channel whose input to the ReLU stays at or below zero on every sound adds nothing to
what follows (network trimming, arXiv:1607.03250, with the threshold at exactly zero). Half of YAMNet's last
depthwise layer is such.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from exporters.towers import AudioConfig, AudioTower

Peaks = dict[str, Tensor]

#: onnxruntime's blocked convolutions need widths of whole vectors, 16 floats; other widths run slower than unpruned.
LANES = 16


def peaks_of(tower: AudioTower, batches: Iterable[Tensor]) -> Peaks:
    """The highest value that enters each channel's ReLU, over all batches of log-mels ``[batch, frames, mels]``.

    Keys are ``<block>`` for depthwise layers and ``out`` for the last pointwise one.
    """
    peaks: Peaks = {}

    def note(key: str) -> object:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            found = output.amax((0, 2, 3))
            peaks[key] = torch.maximum(peaks[key], found) if key in peaks else found

        return hook

    blocks = tower.trunk.blocks
    hooks = [block.depthwise.register_forward_hook(note(str(i))) for i, block in enumerate(blocks)]
    hooks.append(blocks[-1].pointwise.register_forward_hook(note("out")))
    with torch.inference_mode():
        for batch in batches:
            tower.hear(batch)
    for hook in hooks:
        hook.remove()
    return peaks


def prune(config: AudioConfig, state: Mapping[str, Tensor], peaks: Peaks) -> tuple[AudioConfig, dict[str, Tensor]]:
    """The trunk and classifier without channels whose peak is not above zero, and their configuration.

    Widths stay multiples of ``LANES``, for which the loudest of the silent ones are kept. ``state`` is laid out as
    ``trainer.teacher.read_yamnet`` gives it; the result too.
    """
    pruned = dict(state)
    widths = []
    for block in range(len(config.blocks)):
        name = f"trunk.blocks.{block}"
        heard = _kept(peaks[str(block)])
        before = f"trunk.blocks.{block - 1}.pointwise" if block else "trunk.stem"
        for key in (f"{before}.weight", f"{before}.bias", f"{name}.depthwise.weight", f"{name}.depthwise.bias"):
            pruned[key] = pruned[key][heard]
        pruned[f"{name}.pointwise.weight"] = pruned[f"{name}.pointwise.weight"][:, heard]
        widths.append(int(heard.sum()))
    heard, last = _kept(peaks["out"]), f"trunk.blocks.{len(config.blocks) - 1}.pointwise"
    pruned[f"{last}.weight"], pruned[f"{last}.bias"] = pruned[f"{last}.weight"][heard], pruned[f"{last}.bias"][heard]
    pruned["classifier.weight"] = pruned["classifier.weight"][:, heard]
    outs = [*widths[1:], int(heard.sum())]
    blocks = tuple((out, stride) for out, (_, stride) in zip(outs, config.blocks, strict=True))
    return replace(config, stem=widths[0], blocks=blocks), pruned


def _kept(peaks: Tensor) -> Tensor:
    """Which channels ``[channels]`` stay: all that sound, and the loudest others up to a multiple of ``LANES``."""
    count = min(len(peaks), -(-int((peaks > 0).sum()) // LANES) * LANES)
    kept = torch.zeros(len(peaks), dtype=torch.bool)
    kept[peaks.argsort(descending=True, stable=True)[:count]] = True
    return kept
