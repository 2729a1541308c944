"""Log-mels in decibels against a front end written out the slow way: one frame at a time, in numpy's FFT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from exporters.melspec import FLOOR, DecibelMel, MelSettings, hann

MELS = 12


def settings(fft: int, hop: int) -> MelSettings:
    """A window without any symmetry; a bank that reads from the first bin to the last, with a gap between."""
    random = np.random.default_rng(fft + hop)
    bank = random.uniform(0, 1e-3, (fft // 2 + 1, MELS))
    bank[fft // 8 : fft // 6] = 0
    return MelSettings(fft, hop, hann(fft) + 0.1 * random.uniform(size=fft), bank)


def slow_mels(samples: NDArray[np.float32], wanted: MelSettings) -> NDArray[np.float64]:
    """``[frames, mels]``, frame by frame."""
    fft, hop = wanted.fft_samples, wanted.hop_samples
    padded = np.pad(samples.astype(np.float64), fft // 2, mode="reflect")
    rows = []
    for start in range(0, len(padded) - fft + 1, hop):
        power = np.abs(np.fft.rfft(padded[start : start + fft] * wanted.window)) ** 2
        rows.append(10 * np.log10(np.maximum(power @ wanted.bank, FLOOR)))
    return np.array(rows)


@pytest.mark.parametrize("fft", [1024, 512, 400, 2, 6])
@pytest.mark.parametrize("hop", [480, 320, 512, 1024, 100, 7, 1])
def test_any_transform_and_hop(fft: int, hop: int) -> None:
    wanted = settings(fft, hop)
    samples = np.random.default_rng(0).normal(size=(2, 1700)).astype(np.float32)
    found = DecibelMel(wanted)(torch.from_numpy(samples)).numpy()
    assert found.shape == (2, wanted.frames(1700), MELS)
    for row, sound in zip(found, samples, strict=True):
        assert np.abs(row - slow_mels(sound, wanted)).max() < 1e-4


def test_far_below_a_loud_tone() -> None:
    """What float32 sums can't hold: bands 100 dB and more below a tone."""
    bank = np.zeros((513, 2))
    bank[100:120, 0] = bank[250:260, 1] = 1e-2
    wanted = MelSettings(1024, 480, hann(1024), bank)
    tone = np.sin(2 * np.pi * 110 / 1024 * np.arange(4800)).astype(np.float32)
    slow = slow_mels(tone, wanted)[3:-3]
    assert slow[:, 0].min() - slow[:, 1].max() > 100
    assert np.abs(DecibelMel(wanted)(torch.from_numpy(tone)[None])[0].numpy()[3:-3] - slow).max() < 1e-3


def test_silence_is_the_floor() -> None:
    found = DecibelMel(settings(1024, 480))(torch.zeros(1, 4800))
    assert torch.allclose(found, torch.full_like(found, -100.0))


def test_an_odd_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="401 samples"):
        DecibelMel(MelSettings(401, 100, hann(401), np.ones((201, 4))))
