"""Sounds made by formula, with true names: what no recording shows purely (silence, noises, tones, alarms).

Each kind takes a generator and gives four seconds at 16 kHz; its numbers (pitch, rate, level) are drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.types import FloatArray

RATE_HZ = 16_000
SECONDS = 4.0
_T = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ

Maker = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of made sound: ``texts`` all name it truly; it comes up ``share`` times as often as others."""

    texts: tuple[str, ...]
    make: Maker
    share: int = 1


def coloured_noise(chance: np.random.Generator, slope: float) -> np.ndarray:
    """Noise whose power falls with frequency to the power ``slope``: 0 white, 1 pink, 2 brown. RMS 0.2."""
    spectrum = np.fft.rfft(chance.standard_normal(len(_T)))
    frequency = np.maximum(np.fft.rfftfreq(len(_T), 1 / RATE_HZ), 20.0)
    noise = np.fft.irfft(spectrum / frequency ** (slope / 2), len(_T))
    return 0.2 * noise / noise.std()


def _band(noise: np.ndarray, low: float, high: float) -> np.ndarray:
    spectrum = np.fft.rfft(noise)
    frequency = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
    kept = np.fft.irfft(spectrum * ((frequency >= low) & (frequency < high)), len(noise))
    return 0.2 * kept / kept.std()


def _sine(frequency: np.ndarray | float) -> np.ndarray:
    """A sine of unit size whose frequency in Hz may change with time."""
    return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(frequency, _T.shape)) / RATE_HZ)


def _pulses(
    chance: np.random.Generator, rate_hz: float, decay_s: float, sound: np.ndarray, jitter: float
) -> np.ndarray:
    """``sound`` struck ``rate_hz`` times a second, each stroke dying away in ``decay_s``."""
    strokes = np.arange(0.05, SECONDS, 1 / rate_hz)
    strokes = strokes + jitter / rate_hz * chance.uniform(-0.5, 0.5, len(strokes))
    since = np.full(len(_T), np.inf)
    for stroke in np.sort(strokes):
        since = np.where(stroke <= _T, _T - stroke, since)
    return sound * np.exp(-since / decay_s)


def _gate(rate_hz: float, share: float) -> np.ndarray:
    return ((_T * rate_hz) % 1 < share).astype(float)


def _silence(c: np.random.Generator) -> np.ndarray:
    return c.standard_normal(len(_T)) * (0.0 if c.random() < 0.4 else 10 ** c.uniform(-6, -4))


def _clicks(c: np.random.Generator) -> np.ndarray:
    """One in two seconds as often as more, up to sixteen; of a sample to 50 ms; some in hiss too faint to hear."""
    sound = coloured_noise(c, 0) if c.random() < 0.7 else np.ones(len(_T))
    rate = np.exp(c.uniform(np.log(0.6), np.log(8))) if c.random() < 0.5 else c.uniform(0.55, 0.8)
    clicks = _pulses(c, rate, np.exp(c.uniform(np.log(5e-5), np.log(0.015))), sound, 0.1)
    return clicks / np.abs(clicks).max() + _silence(c)


def _siren(c: np.random.Generator) -> np.ndarray:
    low, high, rate = c.uniform(400, 700), c.uniform(900, 1600), c.uniform(0.2, 3)
    swing = 0.5 + 0.5 * np.sin(2 * np.pi * rate * _T) if c.random() < 0.6 else _gate(rate, 0.5)
    tone = _sine(low + (high - low) * swing)
    return tone + 0.3 * np.sign(tone)


def _engine(c: np.random.Generator) -> np.ndarray:
    rate = c.uniform(18, 60) * (1 + 0.05 * np.sin(2 * np.pi * c.uniform(0.2, 1) * _T))
    phase = np.cumsum(rate) / RATE_HZ % 1
    return np.exp(-6 * phase) * (_band(coloured_noise(c, 1), 40, 1200) + 0.2 * np.sign(0.5 - phase))


def _heartbeat(c: np.random.Generator) -> np.ndarray:
    beat = c.uniform(0.9, 1.8)
    lub = np.exp(-((_T * beat % 1) / 0.05)) + 0.7 * np.exp(-(((_T * beat - 0.3) % 1) / 0.05))
    return lub * _sine(c.uniform(40, 70))


def _bird(c: np.random.Generator) -> np.ndarray:
    rate = c.uniform(2, 7)
    return _sine(c.uniform(2500, 4500) + c.uniform(500, 2500) * np.sin(2 * np.pi * rate * 3 * _T)) * _gate(rate, 0.4)


def _alarm(c: np.random.Generator) -> np.ndarray:
    return np.sign(_sine(c.uniform(300, 2500))) * _gate(c.uniform(2, 8), 0.5)


def _clock(c: np.random.Generator) -> np.ndarray:
    return _pulses(c, c.uniform(1, 3), 0.008, _sine(c.uniform(1500, 4000)), 0.0)


def _ring(c: np.random.Generator) -> np.ndarray:
    bell = _sine(c.uniform(800, 1500)) + _sine(c.uniform(1800, 3000))
    return bell * (0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 20 * _T))) * _gate(0.5, 0.5)


def _chime(c: np.random.Generator) -> np.ndarray:
    base = c.uniform(300, 1500)
    partials = sum(_sine(base * ratio) / (i + 1) for i, ratio in enumerate((1.0, 2.76, 5.4)) if base * ratio < 7500)
    return _pulses(c, c.uniform(0.4, 2), c.uniform(0.3, 1.0), partials, 0.0)


def _blast(c: np.random.Generator) -> np.ndarray:
    return _pulses(c, 0.3, c.uniform(0.3, 1.0), coloured_noise(c, 2), 0.0)


def _whoosh(c: np.random.Generator) -> np.ndarray:
    swell = np.exp(-(((_T - 2) / c.uniform(0.2, 0.6)) ** 2))
    return _band(coloured_noise(c, 1), 300, 5000) * swell


def _zap(c: np.random.Generator) -> np.ndarray:
    rate = c.uniform(1, 4)
    return _sine(300 + c.uniform(1500, 4000) * np.exp(-8 * (_T * rate % 1) / rate)) * np.exp(
        -4 * (_T * rate % 1) / rate
    )


def _rain(c: np.random.Generator) -> np.ndarray:
    drops = np.where(c.random(len(_T)) < c.uniform(0.002, 0.02), c.standard_normal(len(_T)), 0)
    return 0.5 * _band(coloured_noise(c, 0.5), 500, 7900) + _band(
        np.convolve(drops, np.exp(-_T[:160] * 900), "same"), 300, 7900
    )


def _wind(c: np.random.Generator) -> np.ndarray:
    gusts = 0.6 + 0.4 * np.sin(2 * np.pi * c.uniform(0.1, 0.5) * _T + c.uniform(0, 6))
    return _band(coloured_noise(c, 1.5), 60, c.uniform(500, 1500)) * gusts


def _crackle(c: np.random.Generator) -> np.ndarray:
    pops = np.where(c.random(len(_T)) < c.uniform(0.0005, 0.003), c.standard_normal(len(_T)), 0)
    return np.convolve(pops, np.exp(-_T[:80] * 1500), "same") + 0.05 * coloured_noise(c, 1)


KINDS = (
    Kind(("silence", "nothing", "quiet"), _silence, share=3),
    Kind(("white noise", "static", "hiss"), lambda c: coloured_noise(c, 0)),
    Kind(("pink noise", "noise"), lambda c: coloured_noise(c, 1)),
    Kind(("low rumble", "rumble", "rumbling"), lambda c: _band(coloured_noise(c, 2), 20, c.uniform(80, 250))),
    Kind(("sine wave", "tone", "pure tone"), lambda c: _sine(np.exp(c.uniform(np.log(100), np.log(6000))))),
    Kind(("high pitched tone", "whine"), lambda c: _sine(c.uniform(4000, 7500))),
    Kind(("mains hum", "electric hum", "humming"), lambda c: sum(_sine(50.0 * k) / k for k in (1, 2, 3, 5))),
    Kind(("beep", "beeping", "beeps"), lambda c: _sine(c.uniform(500, 3000)) * _gate(c.uniform(1, 4), 0.4)),
    Kind(("alarm", "buzzer", "alarm beeping"), _alarm),
    Kind(("siren", "police siren", "siren wailing"), _siren),
    Kind(("clicks", "clicking", "click"), _clicks, share=8),
    Kind(("clock ticking", "ticking", "tick tock"), _clock),
    Kind(("knocking", "knock on a door"), lambda c: _pulses(c, c.uniform(2, 5), 0.03, _sine(c.uniform(120, 400)), 0.2)),
    Kind(("rising sweep", "sweep", "chirp"), lambda c: _sine(200 * np.exp(_T * c.uniform(0.4, 0.9)))),
    Kind(("dial tone", "telephone dial tone"), lambda c: _sine(350.0) + _sine(440.0)),
    Kind(("busy signal", "telephone busy signal"), lambda c: (_sine(480.0) + _sine(620.0)) * _gate(2, 0.5)),
    Kind(("telephone ringing", "phone ringing"), _ring),
    Kind(("engine", "engine idling", "motor"), _engine),
    Kind(("heartbeat", "heart beating"), _heartbeat),
    Kind(("bird chirping", "birds chirping", "bird tweet"), _bird),
    Kind(("bell", "chime", "bell ringing"), _chime),
    Kind(("explosion", "boom"), _blast),
    Kind(("whoosh", "swoosh"), _whoosh),
    Kind(("laser", "zap", "laser gun"), _zap),
    Kind(("rain", "rain falling", "rain shower"), _rain),
    Kind(("wind", "wind blowing", "gusts of wind"), _wind),
    Kind(("crackling", "fire crackling", "vinyl crackle"), _crackle),
)  # fmt: skip


def synthesise(kind: Kind, chance: np.random.Generator) -> FloatArray:
    """Four seconds ``[64000]`` at 16 kHz, peak drawn between -30 and 0 dB; true silence stays silent."""
    samples = np.asarray(kind.make(chance), np.float32)
    peak = float(np.abs(samples).max())
    if peak < 1e-3:
        return samples
    return np.asarray(samples / peak * 10 ** chance.uniform(-1.5, 0), np.float32)
