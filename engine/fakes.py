"""Encoders without a model, for tests: words and pitches hashed into one space.

A window is heard as the octave band of its loudest frequency, and that band's name is a word: a 440 Hz tone is found
by ``band500``. Deterministic everywhere, and as fast as numpy.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from engine.bundle import Calibration
from engine.composer import SumComposer
from engine.encoders import checked_windows, normalise
from engine.errors import QueryError
from engine.types import Device, FloatArray, Space

BANDS_HZ = (63, 125, 250, 500, 1000, 2000)


class FakeEncoders:
    """Both towers; implements ``Encoders``, ``AudioEncoder`` and ``TextEncoder``."""

    def __init__(self, name: str = "fake", dim: int = 32, window_s: float = 1.0, hop_s: float = 0.5) -> None:
        self.space = Space(f"{name}@000000000000", dim, 8000, window_s, hop_s, "zero")
        self.calibration: Mapping[str, Calibration] = {
            "text": Calibration(12.0, -5.0, 0.5),
            "audio": Calibration(12.0, -5.0, 0.5),
        }
        self.notes: Sequence[str] = ()
        self.device: Device = "cpu"

    @property
    def audio(self) -> FakeEncoders:
        """The audio tower."""
        return self

    @property
    def text(self) -> FakeEncoders:
        """The text tower."""
        return self

    @property
    def composer(self) -> SumComposer:
        """Words and a sound, added."""
        return SumComposer(lambda: self)

    def encode_audio(self, windows: FloatArray) -> FloatArray:
        """``[n, window_samples]`` -> L2-normalised ``[n, dim]``: the loudest band's word, or ``silence``.

        Raises ``ValueError`` as the real ones do.
        """
        windows = checked_windows(windows, self.space)
        if not len(windows):
            return np.empty((0, self.space.dim), np.float32)
        spectra = np.abs(np.fft.rfft(windows, axis=1))
        peaks_hz = spectra.argmax(axis=1) * self.space.sample_rate_hz / windows.shape[1]
        loud = np.abs(windows).max(axis=1) > 1e-4
        words = [band_word(float(hz)) if is_loud else "silence" for hz, is_loud in zip(peaks_hz, loud, strict=True)]
        return normalise(np.stack([self._word(word) for word in words]))

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """n texts -> L2-normalised ``[n, dim]``: the mean of their words. Raises ``QueryError`` if one is empty."""
        bags = [re.findall(r"\w+", text.casefold()) for text in texts]
        if not bags or not all(bags):
            raise QueryError("an empty text", "words that describe a sound")
        return normalise(np.stack([np.mean([self._word(word) for word in bag], axis=0) for bag in bags]))

    def _word(self, word: str) -> FloatArray:
        seed = int.from_bytes(hashlib.sha256(f"{self.space.space_id}/{word}".encode()).digest()[:8], "big")
        return np.random.default_rng(seed).standard_normal(self.space.dim).astype(np.float32)


def band_word(frequency_hz: float) -> str:
    """The word for the octave band nearest to a frequency: ``band500`` for 440 Hz."""
    nearest = min(BANDS_HZ, key=lambda band: abs(np.log2(max(frequency_hz, 1.0) / band)))
    return f"band{nearest}"
