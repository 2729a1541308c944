"""Everyday sounds made of arithmetic: no recordings, no licences, the same samples on every machine.

Every sound is a function of ``(rng, rate_hz, seconds)`` that returns mono float64 samples ``[n]`` of any level.
The means are those of Foley and of modal synthesis: filtered noise, ringing modes, grains and glides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float64]
Sound: TypeAlias = Callable[[np.random.Generator, int, float], Samples]
Curve: TypeAlias = Sequence[tuple[float, float]]
Mode: TypeAlias = tuple[float, float, float]


def clock(rate_hz: int, seconds: float) -> Samples:
    """Times in seconds, ``[n]``."""
    times_s: Samples = np.arange(round(seconds * rate_hz)) / rate_hz
    return times_s


def filtered(samples: Samples, rate_hz: int, curve: Curve) -> Samples:
    """Shape a spectrum: ``curve`` is (Hz, dB) points, joined by straight lines over log frequency."""
    hz, gain_db = np.array(curve, dtype=float).T
    size = 1 << (max(2, len(samples)) + rate_hz // 20 - 1).bit_length()
    bins_hz = np.fft.rfftfreq(size, 1 / rate_hz)
    gain = 10 ** (np.interp(np.log(np.maximum(bins_hz, 1.0)), np.log(hz), gain_db) / 20)
    return np.fft.irfft(np.fft.rfft(samples, size) * gain, size)[: len(samples)]


def noise(rng: np.random.Generator, rate_hz: int, seconds: float, curve: Curve) -> Samples:
    """Noise with the spectrum of ``curve``, at an RMS of 1."""
    shaped = filtered(rng.standard_normal(round(seconds * rate_hz)), rate_hz, curve)
    rms = float(np.sqrt(np.mean(shaped**2)))
    return shaped / (rms + 1e-12)


def wander(rng: np.random.Generator, rate_hz: int, seconds: float, hz: float) -> Samples:
    """A smooth random curve within 0..1 that changes about ``hz`` times a second."""
    points = rng.uniform(0, 1, int(seconds * hz) + 3)
    at = clock(rate_hz, seconds) * hz
    low = at.astype(int)
    ease = (1 - np.cos(np.pi * (at - low))) / 2
    curve: Samples = points[low] * (1 - ease) + points[low + 1] * ease
    return curve


def glide(hz: Samples, rate_hz: int, harmonics: Iterable[float] = (1.0,)) -> Samples:
    """A tone that follows the pitch ``hz`` ``[n]``; ``harmonics`` are the levels of 1, 2, 3 … times that pitch."""
    phase = 2 * np.pi * np.cumsum(hz) / rate_hz
    out = np.zeros_like(phase)
    for number, level in enumerate(harmonics, 1):
        out += level * np.sin(number * phase) * (number * hz < 0.47 * rate_hz)
    return out


def ring(rate_hz: int, seconds: float, modes: Iterable[Mode]) -> Samples:
    """A struck body: each mode is (Hz, level, seconds to fall by 60 dB)."""
    t = clock(rate_hz, seconds)
    out = np.zeros_like(t)
    for hz, level, fall_s in modes:
        if hz < 0.47 * rate_hz:
            out += level * np.exp(-6.91 * t / fall_s) * np.sin(2 * np.pi * hz * t)
    return out


def add(out: Samples, at_s: float, grain: Samples, rate_hz: int, level: float = 1.0) -> None:
    """Mix ``grain`` into ``out`` in place, cut at its end."""
    start = int(at_s * rate_hz)
    part = grain[: max(0, len(out) - start)]
    out[start : start + len(part)] += level * part


def room(rng: np.random.Generator, samples: Samples, rate_hz: int, fall_s: float, level: float) -> Samples:
    """Add the reverberation of a room whose echo falls by 60 dB in ``fall_s``."""
    echo = noise(rng, rate_hz, fall_s, [(80, -12), (300, 0), (2500, -3), (9000, -18)])
    echo *= np.exp(-6.91 * clock(rate_hz, fall_s) / fall_s)
    size = 1 << (len(samples) + len(echo)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(echo, size), size)[: len(samples)]
    gain = float(np.sqrt(np.mean(samples**2) / (np.mean(wet**2) + 1e-12)))
    return samples + level * gain * wet


def burst(rng: np.random.Generator, rate_hz: int, fall_s: float, curve: Curve) -> Samples:
    """A short noise that falls by 60 dB in ``fall_s``."""
    return noise(rng, rate_hz, fall_s, curve) * np.exp(-6.91 * clock(rate_hz, fall_s) / fall_s)
