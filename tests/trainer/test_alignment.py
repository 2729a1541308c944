"""What the audio tower's views should mean: the texts of all that is loud enough to be named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from exporters.towers import AudioConfig, AudioTower
from trainer.alignment import audible, targets_of
from trainer.hearing import Views

CONFIG = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=4)


@pytest.mark.parametrize(
    ("shares", "named"),
    [
        ((0.5, 0.3, 0.2), (0.5, 0.3, 0.2)),
        ((0.91, 0.09, 0.0), (1, 0, 0)),
        ((0.60, 0.35, 0.05), (60 / 95, 35 / 95, 0)),
        ((0.08, 0.03, 0.89), (0, 0, 1)),
        ((1.0, 0.0, 0.0), (1, 0, 0)),
        ((0.0, 0.0, 0.0), (0, 0, 0)),
    ],
)
def test_what_is_hardly_heard_goes_unnamed(shares: tuple[float, ...], named: tuple[float, ...]):
    assert audible(torch.tensor([shares]))[0].tolist() == pytest.approx(named, abs=1e-6)


def test_a_view_means_the_texts_of_all_its_sounds():
    torch.manual_seed(0)
    texts = normalize(torch.randn(5, 4), dim=1)
    texts[4] = 0  # says nothing
    views = Views(
        np.array([[0, 1, 2], [3, -1, -1], [0, 1, 2], [4, -1, -1], [4, 2, -1], [1, -1, -1]]),
        np.array([[0.5, 0.3, 0.2], [1, 0, 0], [0.6, 0.35, 0.05], [1, 0, 0], [0.5, 0.5, 0], [0, 0, 0]], np.float32),
        np.random.default_rng(0).random((6, 2, 8)).astype(np.float16),
    )
    silence = normalize(torch.randn(4), dim=0)
    found = targets_of(views, texts, silence, AudioTower(CONFIG).eval())
    wanted = [0.5 * texts[0] + 0.3 * texts[1] + 0.2 * texts[2], texts[3], 0.6 * texts[0] + 0.35 * texts[1]]
    for row, target in enumerate(wanted):
        assert torch.allclose(found.text[row], target / target.norm(), atol=1e-6)
    assert float(found.text[3].norm()) == 0
    assert float(found.belief[3]) == 0
    assert torch.allclose(found.text[4], texts[2], atol=1e-6)
    assert torch.allclose(found.text[5], silence, atol=1e-6)  # whatever its clip says
    told = targets_of(views, texts, silence, AudioTower(CONFIG).eval(), certain=True)
    assert torch.equal(told.text, found.text)
    assert torch.equal(told.teacher, told.text)
    assert told.belief.tolist() == [1] * 6
