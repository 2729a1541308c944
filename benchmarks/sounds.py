"""Sounds to index: the demo's own, again and again with a little noise, in the containers that libraries hold."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from earshot.demo import write_sounds
from engine.audio import read_stretch
from engine.types import FloatArray

KINDS = (
    ("wav", 48_000, 2),
    ("flac", 44_100, 2),
    ("ogg", 44_100, 2),
    ("mp3", 44_100, 2),
    ("m4a", 48_000, 2),
    ("wav", 16_000, 1),
    ("ogg", 32_000, 1),
)
NOISE_LEVELS = (0.001, 0.003, 0.01, 0.03)


def write_mixed_library(folder: Path, originals: Path) -> int:
    """Every sound of the demo (made in ``originals``) once for each noise level, in changing kinds; how many files."""
    count = 0
    for source in write_sounds(originals):
        samples, source_hz = read_stretch(source, 0, 3600)
        for level in NOISE_LEVELS:
            suffix, rate_hz, channels = KINDS[count % len(KINDS)]
            take = soxr.resample(np.resize(samples.T, (channels, len(samples))).T, source_hz, rate_hz, quality="HQ")
            take += level * np.random.default_rng(count).standard_normal(take.shape)
            write(folder / source.parent.name / f"{source.stem} {count:03}.{suffix}", take.astype(np.float32), rate_hz)
            count += 1
    return count


def write(path: Path, samples: FloatArray, rate_hz: int) -> None:
    """Write ``[n, channels]`` in the container that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".m4a":
        _write_m4a(path, samples, rate_hz)
        return
    with soundfile.SoundFile(path, "w", rate_hz, samples.shape[1]) as file:
        # libsndfile's Vorbis encoder overflows its stack on very long writes.
        for start in range(0, len(samples), rate_hz):
            file.write(samples[start : start + rate_hz])


def _write_m4a(path: Path, samples: FloatArray, rate_hz: int) -> None:
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate_hz)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.rate, frame.pts = rate_hz, 0
        cut = av.AudioResampler("fltp", layout, rate_hz, 1024)
        for part in [*cut.resample(frame), *cut.resample(None), None]:
            container.mux(stream.encode(part))


def write_noise(path: Path, seconds: float, rate_hz: int, channels: int, seed: int) -> None:
    """Noise whose level wanders, written a minute at a time."""
    rng = np.random.default_rng(seed)
    with soundfile.SoundFile(path, "w", rate_hz, channels) as file:
        left = round(seconds * rate_hz)
        while left > 0:
            frames = min(left, 60 * rate_hz)
            level = np.abs(np.sin(np.arange(frames) / rate_hz))[:, None] * 0.2
            file.write((rng.standard_normal((frames, channels)) * level).astype(np.float32))
            left -= frames
