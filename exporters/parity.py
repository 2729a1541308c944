"""Does the graph do what the tower does? Measured against how far apart answers usually are.

``measure = max over inputs of |a - b| / median distance between two reference vectors``: an error of 1e-3 is a
thousandth of what tells two sounds apart. The inputs are those that break front ends: tones between bins, chirps
over the mel edges, single clicks, silence, and loud neighbours in the batch.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from engine.errors import BundleError
from engine.types import FloatArray

#: How far a float32 graph may be from its tower.
FP32_TOLERANCE = 1e-3


class ParityError(BundleError):
    """The exported graph doesn't reproduce the tower."""


def probes(samples: int, sample_rate_hz: int) -> dict[str, FloatArray]:
    """Named test sounds ``[samples]``, the same on every machine."""
    t = np.arange(samples) / sample_rate_hz
    chance = np.random.default_rng(20)
    click = np.zeros(samples)
    click[samples // 3] = 1.0
    bursts = chance.standard_normal(samples) * ((t * 3) % 1 < 0.3)
    sounds = {
        "chirp": np.sin(2 * np.pi * (80 * t + (0.45 * sample_rate_hz - 80) / 2 / t[-1] * t * t)),
        "low tone": np.sin(2 * np.pi * 131 * t),
        "tone": 0.3 * np.sin(2 * np.pi * 1003.7 * t),
        "high tone": 0.3 * np.sin(2 * np.pi * 0.46 * sample_rate_hz * t),
        "click": click,
        "bursts": np.clip(0.3 * bursts, -1, 1),
        "pink noise": pink_noise(samples, chance),
        "faint pink noise": 1e-3 * pink_noise(samples, chance),
        "square": 0.9 * np.sign(np.sin(2 * np.pi * 220.5 * t)),
        "direct current": np.full(samples, 0.5),
        "silence": np.zeros(samples),
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}


def speech_like(samples: int, sample_rate_hz: int) -> np.ndarray:
    """Syllables ``[samples]``: pulses gliding about 120 Hz through three resonances, four times a second, peak 0.5."""
    t = np.arange(samples) / sample_rate_hz
    phase = np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t)) / sample_rate_hz
    pulses = (np.diff(np.floor(phase), prepend=0) > 0).astype(float)
    ringing = np.arange(int(0.03 * sample_rate_hz)) / sample_rate_hz
    resonances = sum(np.exp(-90 * ringing) * np.sin(2 * np.pi * hz * ringing) for hz in (600, 1300, 2600))
    voice = np.fft.irfft(np.fft.rfft(pulses, 2 * samples) * np.fft.rfft(resonances, 2 * samples), 2 * samples)[:samples]
    voice *= np.clip(np.sin(2 * np.pi * 4 * t), 0, None)
    return np.asarray(0.5 * voice / np.abs(voice).max())


def clips(window_samples: int, sample_rate_hz: int) -> dict[str, FloatArray]:
    """Named sounds ``[n]`` for a tower that hears ``window_samples``: shorter ones, exact ones, and longer ones.

    Chirp, tones, clicks, bursts, noise loud and faint, something like speech, silence; loud ones beside silent ones.
    """
    made = probes(window_samples, sample_rate_hz)
    speech = speech_like(window_samples + window_samples // 3, sample_rate_hz).astype(np.float32)
    short = {
        f"speech-like, {share:g} of a window": speech[: round(share * window_samples)]
        for share in (0.02, 0.3, 0.5, 0.7)
    }
    return {**made, "speech-like": speech[:window_samples], **short, "speech-like, longer than a window": speech}


def pink_noise(samples: int, chance: np.random.Generator) -> np.ndarray:
    """Noise ``[samples]`` of equal power per octave, RMS 0.1."""
    spectrum = np.fft.rfft(chance.standard_normal(samples))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), samples)
    return np.asarray(0.1 * noise / noise.std())


def measure(found: FloatArray, reference: FloatArray) -> float:
    """The measure of this file's head, over rows ``[n, dim]``; infinity where something isn't finite."""
    if not np.isfinite(found).all():
        return float("inf")
    apart = [float(np.linalg.norm(a - b)) for a, b in combinations(reference, 2)]
    return float(np.linalg.norm(found - reference, axis=1).max() / np.median(apart))


def alike(vectors: FloatArray) -> float:
    """The median cosine between two of the unit rows ``[n, dim]``: 1 where a tower says the same of everything."""
    return float(np.median([float(a @ b) for a, b in combinations(vectors, 2)]))


def require(name: str, found: FloatArray, reference: FloatArray, tolerance: float = FP32_TOLERANCE) -> float:
    """The measure, if it is within ``tolerance``. Raises ``ParityError`` otherwise."""
    value = measure(found, reference)
    if not value <= tolerance:
        raise ParityError(
            f"{name} off by {value:.2e}", f"at most {tolerance:.0e}", "the export is wrong: don't ship it"
        )
    return value
