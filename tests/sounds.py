"""Sound files for tests: small, made on the spot, never read from a disk of samples."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray


def tone(
    seconds: float = 0.2, *, rate_hz: int = 16_000, hz: float = 440.0, channels: int = 1, peak: float = 0.5
) -> NDArray[np.float32]:
    """A sine ``[n]``, or ``[n, channels]`` with the same sine in each channel."""
    samples = peak * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)
    mono = samples.astype(np.float32)
    return mono if channels == 1 else np.repeat(mono[:, None], channels, axis=1)


def noise(seconds: float = 0.2, *, rate_hz: int = 16_000, seed: int = 0, peak: float = 0.5) -> NDArray[np.float32]:
    """White noise ``[n]``, the same for the same seed."""
    samples = np.random.default_rng(seed).uniform(-peak, peak, round(seconds * rate_hz))
    return samples.astype(np.float32)


def write_sound(
    path: Path,
    samples: NDArray[np.float32] | None = None,
    *,
    rate_hz: int = 16_000,
    format: str | None = None,
    subtype: str | None = None,
    **texts: str,
) -> Path:
    """Write ``[n]`` or ``[n, channels]`` (a short tone by default), making folders as needed.

    ``texts`` are libsndfile's strings: ``title="…"``, ``artist="…"``, ``comment="…"``. Returns ``path``.
    """
    if samples is None:
        samples = tone(rate_hz=rate_hz)
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    with soundfile.SoundFile(path, "w", rate_hz, channels, subtype=subtype, format=format) as file:
        for name, text in texts.items():
            setattr(file, name, text)
        file.write(samples)
    return path


def write_tones(folder: Path, *pitches_hz: int) -> Path:
    """A file of 2 s at 8 kHz for each pitch, ``500.wav`` for 500 Hz. Returns ``folder``."""
    for hz in pitches_hz:
        write_sound(folder / f"{hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000)
    return folder


def riff(chunks: Iterable[tuple[bytes, bytes]], *, kind: bytes = b"RIFF", samples: int = 160) -> bytes:
    """The bytes of a 16 kHz, 16 bit mono WAVE with further chunks before its silent ``data``."""
    fmt = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    body = b"WAVE"
    for name, content in [*chunks, (b"fmt ", fmt), (b"data", bytes(2 * samples))]:
        body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return kind + struct.pack("<I", len(body)) + body
