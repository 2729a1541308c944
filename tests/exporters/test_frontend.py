"""The log-mel inside the graph against a front end written out the slow way, in numpy's FFT."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from exporters.frontend import FrontConfig, LogMel, frames_of, mel_bank
from exporters.parity import probes

CONFIG = FrontConfig()


def slow_log_mel(samples: np.ndarray, config: FrontConfig = CONFIG) -> np.ndarray:
    """Frame, window, FFT, magnitude, triangles, log: one frame and one band at a time. ``[frames, mels]``."""
    mel = lambda hz: 1127 * math.log(1 + hz / 700)  # noqa: E731
    low, high = mel(config.low_hz), mel(config.high_hz)
    edges = [low + (high - low) * i / (config.mels + 1) for i in range(config.mels + 2)]
    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / config.frame_samples) for n in range(config.frame_samples)]
    bins = [mel(k * config.sample_rate_hz / config.fft_samples) for k in range(config.fft_samples // 2 + 1)]
    rows = []
    for start in range(0, len(samples) - config.frame_samples + 1, config.hop_samples):
        frame = samples[start : start + config.frame_samples].astype(np.float64) * window
        magnitude = np.abs(np.fft.rfft(frame, config.fft_samples))
        row = []
        for below, centre, above in zip(edges, edges[1:], edges[2:], strict=False):
            weights = [max(0.0, min((b - below) / (centre - below), (above - b) / (above - centre))) for b in bins]
            row.append(math.log(sum(w * m for w, m in zip(weights[1:], magnitude[1:], strict=True)) + config.offset))
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("name", list(probes(2000, 16_000)))
def test_against_the_slow_version(name):
    samples = probes(2000, 16_000)[name]
    found = LogMel(CONFIG)(torch.from_numpy(samples)[None])[0].numpy()
    assert found.shape == (frames_of(2000, CONFIG), 64)
    assert np.abs(found - slow_log_mel(samples)).max() < 2e-3


def test_every_band_has_a_bin():
    assert (mel_bank(CONFIG).sum(0) > 0).all()


def test_a_frame_hears_nothing_outside_it():
    samples = torch.zeros(1, 2000)
    samples[0, 400 + 3 * 160 :] = 1.0
    found = LogMel(CONFIG)(samples)[0]
    assert torch.allclose(found[:4], torch.full((4, 64), math.log(CONFIG.offset)), atol=1e-6)


def test_frames_of_counts_whole_frames():
    assert [frames_of(n, CONFIG) for n in (400, 559, 560, 31_040)] == [1, 1, 2, 192]
