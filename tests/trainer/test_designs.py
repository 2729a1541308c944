"""What the tables of designs are made with: scores as the verdict counts them, weights between two towers, padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exporters.towers import AudioConfig, AudioTower, TextConfig
from trainer.proxy import read_kinds
from trainer.recipes.designs import Exam, _between, _Convolutions

TINY = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=4)


def test_a_row_tells_what_the_verdict_would():
    exam = Exam(read_kinds(), np.array([0, 0, 5]))
    names = np.eye(80, dtype=np.float32)[: len(exam.kinds)]
    heard = [names[[0]], names[[0, 3]], names[[5]]]
    assert exam.row("x", heard, names, "more") == "| x | 1.000 | 1.000 | 1.000 | 1.000 | 0.667 | more |"
    swapped = [heard[2], heard[1], heard[0]]
    # The first kind's own sound ties with another's, which counts against it.
    assert exam.row("x", swapped, names) == "| x | 0.000 | 1.000 | 0.458 | 0.333 | 0.000 |"


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_between_two_towers(share: float):
    torch.manual_seed(0)
    first, last = AudioTower(TINY), AudioTower(TINY)
    found = _between(first, last, share).classifier.weight
    assert torch.allclose(found, (1 - share) * first.classifier.weight + share * last.classifier.weight, atol=1e-6)


def test_convolutions_do_not_see_padding():
    layer = _Convolutions(TextConfig(pieces=8, dim=8)).eval()
    x = torch.randn(2, 5, 8)
    bias = torch.zeros(2, 1, 1, 5)
    bias[:, :, :, 3:] = -1e4
    other = x.clone()
    other[:, 3:] = 7.0
    assert torch.allclose(layer(x, bias)[:, :3], layer(other, bias)[:, :3], atol=1e-6)
