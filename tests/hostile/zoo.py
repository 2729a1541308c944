"""Files as archives have them, each written by a function: some to be refused, some to be heard all the same."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import soundfile

from engine.types import FloatArray
from tests.hostile.seeds import makers
from tests.sounds import noise, riff, tone, write_sound

RATE_HZ = 16_000
Write = Callable[[Path], object]


def sound(seconds: float = 1.0, rate_hz: int = RATE_HZ, hz: float = 700.0) -> FloatArray:
    return tone(seconds, rate_hz=rate_hz, hz=hz) + noise(seconds, rate_hz=rate_hz, peak=0.05)


def written(
    path: Path, samples: FloatArray, rate_hz: int = RATE_HZ, subtype: str | None = "FLOAT", **more: str
) -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype, **more)
    return path


def cut(write: Write, share: float, path: Path) -> None:
    """The first ``share`` of what ``write`` writes."""
    write(path)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])


def patched(write: Write, marker: bytes, offset: int, field: bytes, path: Path) -> None:
    """What ``write`` writes, with ``field`` in the place ``offset`` bytes after ``marker``."""
    write(path)
    content = bytearray(path.read_bytes())
    at = content.index(marker) + len(marker) + offset
    content[at : at + len(field)] = field
    path.write_bytes(content)


def pcm(path: Path) -> None:
    written(path, sound(), subtype="PCM_16")


def w64(path: Path) -> None:
    written(path, sound(), subtype="PCM_16", format="W64")


def rf64(path: Path) -> None:
    written(path, sound(), subtype="PCM_16", format="RF64")


def coded(path: Path, kind: str, subtype: str | None = None, seconds: float = 6.0) -> None:
    written(path, sound(seconds, 48_000), 48_000, subtype, format=kind)


def with_sample(value: float, path: Path) -> None:
    samples = np.stack([sound()] * 2, axis=1)
    samples[5000, 1] = value
    written(path, samples)


def by_ffmpeg(seed: str, path: Path) -> None:
    makers()[seed][1](path)


def long_by_ffmpeg(codec: str, path: Path) -> None:
    """Long enough that the loss of a half is no rounding."""
    kinds = {".webm": "webm", ".mka": "matroska", ".wma": "asf", ".avi": "avi", ".m4a": "ipod"}
    options = {"movflags": "faststart"} if path.suffix == ".m4a" else {}
    with av.open(str(path), "w", format=kinds[path.suffix], options=options) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        if codec == "wmav2":
            stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(sound(20.0, 48_000)[None], format="fltp", layout="mono")
        frame.rate, frame.pts = 48_000, 0
        stream.codec_context.open()
        fit = av.AudioResampler(stream.format.name, "mono", 48_000, stream.codec_context.frame_size or None)
        for part in [*fit.resample(frame), *fit.resample(None), None]:
            container.mux(stream.encode(part))


#: The name of a file that can't be heard -> what writes it, and what its reason says.
REFUSED: dict[str, tuple[Write, str]] = {
    "zero bytes.wav": (Path.touch, "an empty file"),
    "text.wav": (lambda path: path.write_text("this is no sound\n" * 40), "neither libsndfile nor FFmpeg"),
    "picture.mp3": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500)), ""),
    "cut.wav": (partial(cut, pcm, 0.5), "the first"),
    "cut.flac": (partial(cut, partial(coded, kind="FLAC"), 0.5), "breaks off"),
    "cut.aiff": (partial(cut, partial(coded, kind="AIFF"), 0.5), "the first"),
    "cut.w64": (partial(cut, w64, 0.5), "the first"),
    "cut.rf64": (partial(cut, rf64, 0.5), "the first"),
    "cut.au": (partial(cut, partial(coded, kind="AU"), 0.5), "the first"),
    "head only.wav": (partial(cut, pcm, 0.001), ""),
    "cut.aac": (partial(cut, partial(by_ffmpeg, "aac"), 0.5), "breaks off"),
    "cut.m4a": (partial(cut, partial(long_by_ffmpeg, "aac"), 0.5), "breaks off"),
    "no index.mp4": (partial(cut, partial(by_ffmpeg, "mp4-video"), 0.5), ""),
    "promises too much.wav": (partial(patched, pcm, b"data", 0, struct.pack("<I", 10**9)), "the first"),
    "bomb.wav": (partial(patched, pcm, b"data", 0, struct.pack("<I", 0x7FFE0000)), "the first"),
    "bomb.rf64": (partial(patched, rf64, b"ds64", 12, struct.pack("<QQ", 2 * 10**12, 10**12)), "the first"),
    "bomb.w64": (partial(patched, w64, b"riff", 12, struct.pack("<Q", 2 * 10**12)), "the first"),
    "nan.wav": (partial(with_sample, np.nan), "NaN or infinity"),
    "inf.wav": (partial(with_sample, np.inf), "NaN or infinity"),
    "far beyond.wav": (partial(with_sample, 3e38), "far beyond full scale"),
    "no channels.wav": (partial(patched, pcm, b"fmt ", 6, struct.pack("<H", 0)), ""),
    "no rate.wav": (partial(patched, pcm, b"fmt ", 8, struct.pack("<I", 0)), ""),
    "1 hertz.wav": (partial(patched, pcm, b"fmt ", 8, struct.pack("<I", 1)), "a sample rate of 1 Hz"),
    "2 gigahertz.wav": (partial(patched, pcm, b"fmt ", 8, struct.pack("<I", 2 * 10**9)), "a sample rate"),
    "no samples.wav": (lambda path: path.write_bytes(riff([], samples=0)), "no samples"),
    "film without sound.mp4": (lambda path: silent_film(path), "no sound track"),
}

#: The name of a file of which only the first part is heard -> what writes it.
DAMAGED: dict[str, Write] = {
    "cut.mp3": partial(cut, partial(coded, kind="MP3"), 0.5),
    "cut.ogg": partial(cut, partial(coded, kind="OGG", subtype="VORBIS"), 0.5),
    "cut.opus": partial(cut, partial(coded, kind="OGG", subtype="OPUS"), 0.5),
    "cut.caf": partial(cut, partial(coded, kind="CAF", subtype="PCM_16"), 0.5),
    "cut.voc": partial(cut, partial(coded, kind="VOC", subtype="PCM_16"), 0.5),
    "cut.webm": partial(cut, partial(long_by_ffmpeg, "libopus"), 0.5),
    "cut.mka": partial(cut, partial(long_by_ffmpeg, "ac3"), 0.5),
    "cut.wma": partial(cut, partial(long_by_ffmpeg, "wmav2"), 0.5),
    "cut.avi": partial(cut, partial(long_by_ffmpeg, "libmp3lame"), 0.5),
}


def channels(count: int, path: Path) -> None:
    written(path, np.repeat(sound()[:, None], count, axis=1) * np.linspace(0.1, 1, count, dtype=np.float32))


def bomb_flac(path: Path) -> None:
    """A flac whose header promises 2^36 - 1 samples: the most there is room for."""
    coded(path, kind="FLAC", seconds=1.0)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)


#: The name of a file that is heard as it should be -> what writes it.
HEARD: dict[str, Write] = {
    "clipped.wav": lambda path: written(path, np.clip(20 * sound(), -1, 1)),
    "silent.wav": lambda path: written(path, np.zeros(RATE_HZ, np.float32)),
    "direct current.wav": lambda path: written(path, np.full(RATE_HZ, 0.7, np.float32)),
    "one sample.wav": lambda path: written(path, np.full(1, 0.5, np.float32)),
    "one sample at 96k.flac": lambda path: written(path, np.full(1, 0.5, np.float32), 96_000, "PCM_24"),
    "24 channels.wav": partial(channels, 24),
    "64 channels.wav": partial(channels, 64),
    "1 kHz.wav": lambda path: written(path, sound(1.0, 1000, 100.0), 1000),
    "384 kHz.wav": lambda path: written(path, sound(1.0, 384_000), 384_000),
    "far above 1.wav": lambda path: written(path, 1000 * sound()),
    "anti-phase.wav": lambda path: written(path, np.stack([sound(), -sound()], axis=1)),
    "from a pipe.wav": partial(patched, pcm, b"data", 0, b"\xff\xff\xff\xff"),
    "riff size 0.wav": partial(patched, pcm, b"RIFF", 0, bytes(4)),
    "riff size too big.wav": partial(patched, pcm, b"RIFF", 0, b"\xfe\xff\xff\x7f"),
    "data size too small.wav": partial(patched, pcm, b"data", 0, struct.pack("<I", 16_000)),
    "bomb.flac": bomb_flac,
    "wrong suffix.mp3": lambda path: written(path, sound(), subtype="PCM_16", format="WAV"),
    "name with  spaces .wav": pcm,
    "emoji 🐕‍🦺 犬.wav": pcm,
    "line\nbreak.wav": pcm,
    "-dash.wav": pcm,
    "quote ' and \".wav": pcm,
    "l" * 251 + ".wav": pcm,
    os.fsdecode(b"caf\xe9 \xff.wav"): pcm,
}


def silent_film(path: Path) -> None:
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        for frame in [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"), None]:
            container.mux(picture.encode(frame))


def write_zoo(folder: Path) -> Path:
    """All of it in ``folder``, each kind in a folder of its own, beside a good file."""
    for name in ("refused", "damaged", "heard"):
        (folder / name).mkdir(parents=True)
    writers = {"refused": {name: write for name, (write, _) in REFUSED.items()}, "damaged": DAMAGED, "heard": HEARD}
    for kind, files in writers.items():
        for name, write in files.items():
            plain = folder / f"new{Path(name).suffix}"  # libsndfile writes no name that is not UTF-8
            write(plain)
            plain.rename(folder / kind / name)
    write_sound(folder / "good.wav", sound(3.0, hz=440.0))
    return folder
