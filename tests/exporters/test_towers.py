"""Loudness: a faint recording means what a louder one means, a loud one is left alone, silence stays silence."""

from __future__ import annotations

import math

import pytest
import torch

from exporters.parity import probes
from exporters.towers import AudioConfig, AudioTower

CONFIG = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=4)


@pytest.fixture(scope="module")
def tower() -> AudioTower:
    return AudioTower(CONFIG).eval()


def heard(tower: AudioTower, name: str, gain: float) -> torch.Tensor:
    samples = torch.from_numpy(probes(CONFIG.window_samples, 16_000)[name])[None]
    with torch.inference_mode():
        return tower.levelled(tower.front(gain * samples))


@pytest.mark.parametrize("name", ["chirp", "pink noise", "square"])
def test_ten_times_fainter_is_heard_alike(tower, name):
    louder = heard(tower, name, 0.05)
    assert (louder.exp() - CONFIG.front.offset).square().mean().sqrt() == pytest.approx(CONFIG.level, rel=1e-3)
    assert torch.allclose(louder, heard(tower, name, 0.025), atol=1e-2)


def test_loud_sounds_are_left_alone(tower):
    samples = torch.from_numpy(probes(CONFIG.window_samples, 16_000)["chirp"])[None]
    with torch.inference_mode():
        mels = tower.front(samples)
        assert (mels.exp() - CONFIG.front.offset).square().mean().sqrt() > CONFIG.level
        assert torch.allclose(tower.levelled(mels), mels, atol=2e-3)


def test_silence_stays_silence(tower):
    quiet = torch.full((1, 192, 64), math.log(CONFIG.front.offset))
    assert torch.allclose(tower.levelled(quiet), quiet, atol=1e-4)
    assert torch.allclose(heard(tower, "pink noise", 1e-8), quiet, atol=2e-2)


def test_the_gain_by_hand(tower):
    mels = torch.log(torch.full((1, 192, 64), CONFIG.level / 4) + CONFIG.front.offset)
    found = tower.levelled(mels).exp() - CONFIG.front.offset
    assert torch.allclose(found, torch.full_like(found, CONFIG.level), rtol=1e-4)
    faint = torch.log(torch.full((1, 192, 64), CONFIG.level / 1000) + CONFIG.front.offset)
    found = tower.levelled(faint).exp() - CONFIG.front.offset
    assert torch.allclose(found, torch.full_like(found, CONFIG.level / 1000 * CONFIG.most_gain), rtol=1e-3)


def test_a_constant_offset_is_not_heard(tower):
    samples = torch.from_numpy(probes(CONFIG.window_samples, 16_000)["faint pink noise"])[None]
    with torch.inference_mode():
        assert torch.allclose(tower(samples + 0.4), tower(samples), atol=1e-3)
        assert torch.allclose(tower(torch.full_like(samples, 0.4)), tower(torch.zeros_like(samples)), atol=1e-4)
