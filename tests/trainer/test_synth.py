"""Synthesised sounds are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.synth import KINDS, RATE_HZ, SECONDS, coloured_noise, synthesise

BY_NAME = {kind.texts[0]: kind for kind in KINDS}


@pytest.mark.parametrize("name", BY_NAME)
def test_finite_and_of_the_right_length(name):
    for take in range(3):
        samples = synthesise(BY_NAME[name], np.random.default_rng(take))
        assert samples.shape == (round(SECONDS * RATE_HZ),)
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 1
        assert (np.abs(samples).max() > 0.01) == (name != "silence")


def test_the_same_chance_gives_the_same_sound():
    for kind in KINDS:
        one, two = (synthesise(kind, np.random.default_rng(9)) for _ in range(2))
        assert np.array_equal(one, two)


@pytest.mark.parametrize("slope", [0, 1, 2])
def test_noise_falls_by_its_slope(slope):
    power = np.mean(
        [np.abs(np.fft.rfft(coloured_noise(np.random.default_rng(i), slope))) ** 2 for i in range(20)], axis=0
    )
    hz = np.fft.rfftfreq(round(SECONDS * RATE_HZ), 1 / RATE_HZ)
    octaves = [power[(hz >= low) & (hz < 2 * low)].mean() for low in (250, 500, 1000, 2000)]
    assert np.log2(octaves[0] / octaves[-1]) / 3 == pytest.approx(slope, abs=0.2)


def test_a_tone_is_one_line():
    spectrum = np.abs(np.fft.rfft(synthesise(BY_NAME["sine wave"], np.random.default_rng(2))))
    peak = int(spectrum.argmax())
    around = spectrum[max(0, peak - 3) : peak + 4]
    assert (around**2).sum() > 0.9 * (spectrum**2).sum()


def test_every_two_seconds_hold_a_click():
    for take in range(60):
        samples = synthesise(BY_NAME["clicks"], np.random.default_rng(take))
        loud = np.flatnonzero(np.abs(samples) > 0.1 * np.abs(samples).max())
        assert np.diff([0, *loud, len(samples)]).max() < 2 * RATE_HZ
