"""What counts as nothing to hear, and what words ask for it; on real recordings where they are present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.audio import open_clip
from engine.silence import is_silent
from engine.types import Space, Window
from engine.windows import cut
from tests.sounds import write_sound

SPACE = Space("test@000000000000", 4, 16_000, 1.94, 0.97, "repeat")


def t(rate_hz: int, seconds: float = 6.0) -> np.ndarray:
    return np.arange(round(rate_hz * seconds)) / rate_hz


def silent(path: Path) -> list[bool]:
    return [is_silent(window, 16_000) for window in cut(open_clip(path, 16_000).blocks, SPACE)]


@pytest.mark.parametrize(("rate_hz", "seconds"), [(8000, 6.0), (44_100, 6.0), (48_000, 0.1), (96_000, 6.0)])
def test_a_constant_is_silent_to_its_ends(tmp_path: Path, rate_hz: int, seconds: float):
    for level in (0.0, 0.01, 0.5, -0.99):
        path = write_sound(tmp_path / "a.wav", np.full(round(rate_hz * seconds), level), rate_hz=rate_hz)
        assert all(silent(path)), level


@pytest.mark.parametrize("rate_hz", [44_100, 48_000, 96_000])
def test_a_tone_too_high_to_be_heard_is_silent(tmp_path: Path, rate_hz: int):
    for phase in (0.0, 1.6):
        wave = 0.9 * np.sin(2 * np.pi * 20_000 * t(rate_hz) + phase)
        assert all(silent(write_sound(tmp_path / "a.wav", wave, rate_hz=rate_hz)))


def test_what_can_be_heard_is_not(tmp_path: Path):
    chance = np.random.default_rng(1)
    click = np.zeros(16_000 * 6)
    click[40_000:40_800] = 0.01 * chance.standard_normal(800)
    sounds = {
        "a faint hum": 1e-4 * np.sin(2 * np.pi * 100 * t(16_000)) + 0.2,
        "clipped": np.clip(9 * np.sin(2 * np.pi * 300 * t(16_000)), -1, 1),
        "30 ms": 0.1 * chance.standard_normal(480),
    }
    for name, wave in sounds.items():
        assert not any(silent(write_sound(tmp_path / "a.wav", wave, rate_hz=16_000))), name
    heard = [
        n for n, nothing in enumerate(silent(write_sound(tmp_path / "a.wav", click, rate_hz=16_000))) if not nothing
    ]
    assert heard == [1, 2]  # the windows from 0.97 and 1.94 s: the click is at 2.5 s


def test_padding_tells_nothing():
    samples = np.zeros(31_040, np.float32)
    samples[8000:] = 1.0
    assert is_silent(Window(0, 0.0, 0.5, samples), 16_000)
    assert not is_silent(Window(0, 0.0, 1.94, samples), 16_000)
    assert is_silent(Window(0, 0.0, 1 / 16_000, samples), 16_000)
