"""Path -> Clip: decode anything, mix to mono by one rule, resample; in blocks, so that length does not matter.

soundfile (libsndfile) decodes what it can, PyAV (FFmpeg) the rest: m4a, aac, wma, webm, the sound of a video.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from engine import whole
from engine.errors import AudioError
from engine.types import Clip, FloatArray

#: The mono rule decides once a block; blocks lie on a fixed grid, so one file always gives one signal.
BLOCK_S = 10.0
MAX_BLOCK_VALUES = 4_000_000
#: A mean of channels this far below the loudest channel means that they cancel each other.
ANTI_PHASE_DB = 20.0
#: A mean square of 1e12 full scales is no sound but noise read as numbers, and would overflow further on.
MAX_MEAN_SQUARE = 1e24
#: Sound is sampled between these, from infrasound to one-bit recorders; other rates are a broken header's, and
#: resampling from them takes minutes for a byte.
MIN_RATE_HZ, MAX_RATE_HZ = 100, 25_000_000
#: No recording is this long; a few megabytes of a codec's silence can be.
MAX_S = 31 * 24 * 3600

#: libsndfile's and FFmpeg's names for containers -> what people call them.
_COMMON_NAMES = {"wavex": "wav", "rf64": "wav", "mov": "mp4", "matroska": "mkv", "asf": "wma", "mpeg": "mpg"}
#: Containers of many names: the file's own suffix says which, if it is one of these.
_SUFFIXES = {
    "ogg": {"opus"},
    "mov": {"mov", "m4a", "m4b", "m4v", "3gp", "3g2"},
    "matroska": {"webm", "mka"},
    "asf": {"wmv", "asf"},
    "mpegts": {"ts", "mts", "m2ts"},
}


@dataclass(frozen=True, slots=True)
class _Source:
    """An opened file: ``blocks()`` yields float32 ``[frames, channels]`` on the block grid."""

    blocks: Callable[[], Iterator[FloatArray]]
    sample_rate_hz: int
    channels: int
    format: str
    remarks: list[str] = field(default_factory=list)


def open_clip(path: Path, sample_rate_hz: int) -> Clip:
    """Open a sound for streaming at ``sample_rate_hz``, mono.

    Mono is the mean of the channels; in blocks (10 s) where the mean falls 20 dB below the loudest channel
    (anti-phase), the loudest channel is taken. Resampling is soxr HQ. The same file always gives the same samples.

    Raises ``AudioError`` here if the file can't be opened, and from ``Clip.blocks`` if it breaks further on; it leaves
    out the file's name (copies share one reason), see ``naming``.
    """
    source = _open_soundfile(path) or _open_av(path)
    if not MIN_RATE_HZ <= source.sample_rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"a sample rate of {source.sample_rate_hz} Hz",
            f"{MIN_RATE_HZ} to {MAX_RATE_HZ} Hz",
            "set the right rate in its header",
        )
    mono = _mono(_bounded(source))
    blocks = resample(mono, source.sample_rate_hz, sample_rate_hz)
    return Clip(blocks, sample_rate_hz, source.sample_rate_hz, source.channels, source.format, source.remarks)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an ``AudioError`` says which file it is about, for whoever does not print the path beside it anyway."""
    try:
        yield
    except AudioError as error:
        raise AudioError(f"{path}: {error.found}", error.expected, error.action) from error


def read_samples(path: Path, sample_rate_hz: int) -> FloatArray:
    """A whole short file as ``[n]`` mono samples at ``sample_rate_hz``. Raises ``AudioError``."""
    parts = list(open_clip(path, sample_rate_hz).blocks)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def read_stretch(path: Path, start_s: float, end_s: float) -> tuple[FloatArray, int]:
    """The samples from ``start_s`` to ``end_s`` as they are in the file: ``[frames, channels]`` and the rate in Hz.

    What lies outside the file is left out. Raises ``AudioError``.
    """
    _check_readable(path)
    try:
        with soundfile.SoundFile(path) as file:
            if file.seekable() and file.format not in _FUZZY:
                first, last = (min(max(0, round(at_s * file.samplerate)), file.frames) for at_s in (start_s, end_s))
                file.seek(first)
                return file.read(max(0, last - first), dtype="float32", always_2d=True), file.samplerate
    except _NOT_FOR_SOUNDFILE:
        pass
    source = _open_soundfile(path) or _open_av(path)
    first, last = (max(0, round(at_s * source.sample_rate_hz)) for at_s in (start_s, end_s))
    parts, at = [np.empty((0, source.channels), np.float32)], 0
    for block in source.blocks():
        parts.append(block[max(0, first - at) : max(0, last - at)].copy())
        at += len(block)
        if at >= last:
            break
    return np.concatenate(parts), source.sample_rate_hz


#: Formats in which libsndfile seeks to about the right place, not to it (mp3 of variable bit rate, ends of ogg).
_FUZZY = {"MP3", "OGG"}


class _Forward(soundfile.SoundFile):  # type: ignore[misc]  # soundfile is untyped
    """A file read from its start to its end. soundfile seeks after every read, which garbles mp3 at block borders."""

    def seekable(self) -> bool:
        """Never, so that ``read`` does not."""
        return False


#: An unknown format; a ``.raw`` file, which needs its rate told; a name that is no Unicode.
_NOT_FOR_SOUNDFILE = (soundfile.LibsndfileError, TypeError, UnicodeError)


def _open_soundfile(path: Path) -> _Source | None:
    """The file through libsndfile, or None where it does not know the format."""
    _check_readable(path)
    try:
        file = _Forward(path)
    except _NOT_FOR_SOUNDFILE:
        return None
    try:
        whole.check_whole(file)
    except AudioError:
        file.close()
        raise
    frames = block_frames(file.samplerate, file.channels)

    def blocks() -> Iterator[FloatArray]:
        with file:
            while True:
                try:
                    block = file.read(frames, dtype="float32", always_2d=True)
                except (soundfile.LibsndfileError, RuntimeError) as error:
                    raise _broken(error) from error
                if not len(block):
                    return
                yield block

    remarks = [whole.REMARK] if whole.is_unfinished(file, path) or whole.lacks_bytes(path) else []
    return _Source(blocks, file.samplerate, file.channels, format_name(file.format, path), remarks)


def format_name(container: str, path: Path) -> str:
    """What people call a file of this container, as libsndfile or FFmpeg (``mov,mp4,m4a``) names it; lower case.

    The content decides, but for containers that go by many names: an mp4 called ``x.m4a`` is an m4a.
    """
    name = container.lower().split(",")[0]
    suffix = path.suffix.lower().removeprefix(".")
    return suffix if suffix in _SUFFIXES.get(name, ()) else _COMMON_NAMES.get(name, name)


def _check_readable(path: Path) -> None:
    """Raise ``AudioError`` in words for what the decoders would only call a system error."""
    try:
        with regular(path) as stream:
            if not stream.read(1):
                raise AudioError("an empty file (0 bytes)", "a sound", "copy it again from its source, or delete it")
    except OSError as error:
        raise AudioError(
            error.strerror or str(error), "a readable file", "check the path and its permissions"
        ) from error


def regular(path: Path) -> FileIO:
    """A regular file, opened to be read; a fifo or a device is not waited for. Raises ``OSError``."""
    stream = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return stream


def block_frames(sample_rate_hz: int, channels: int) -> int:
    """Frames in one block of the grid: 10 s, less where many channels at a high rate would take too much memory."""
    return max(1, min(round(BLOCK_S * sample_rate_hz), MAX_BLOCK_VALUES // max(1, channels)))


def _open_av(path: Path) -> _Source:
    """The file's first sound track through FFmpeg. Raises ``AudioError``."""
    import av  # slow to import, and most libraries never need it

    try:
        container = av.open(f"file:{path}", metadata_errors="replace")  # or "concat:x.wma" would be a protocol
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(
            f"a file that neither libsndfile nor FFmpeg can read ({decoder_said(error)})",
            "a sound or a video",
            "convert it, or copy it again",
        ) from error
    stream = next(iter(container.streams.audio), None)
    if stream is None or stream.codec_context is None or not (stream.rate and stream.channels):
        container.close()
        what = "no sound track" if stream is None else "a sound track of an unknown kind"
        raise AudioError(what, "a sound, or a video with sound", "leave it out, or convert it")
    rate, channels = int(stream.rate), int(stream.channels)
    remarks: list[str] = []

    def blocks() -> Iterator[FloatArray]:
        with container:
            seen = _Seen()
            try:
                yield from _regrid(_av_frames(container, stream, rate, channels, seen), block_frames(rate, channels))
            except av.error.FFmpegError as error:
                raise _broken(error) from error
            if whole.lacks_bytes(path) or whole.ends_early(seen.end_s, whole.promised_s(container, stream)):
                remarks.append(whole.REMARK)

    return _Source(blocks, rate, channels, format_name(container.format.name, path), remarks)


@dataclass(slots=True)
class _Seen:
    """Where the last frame of a stream ended, by its time stamp."""

    end_s: float = 0.0


def _av_frames(container: Any, stream: Any, rate_hz: int, channels: int, seen: _Seen) -> Iterator[FloatArray]:
    """Decoded frames ``[frames, channels]`` float32, at the stream's own rate, whatever each frame comes in.

    A recorder that restarts, or files joined end to end, change channels or rate on the way.
    """
    import av

    to_float, kind = None, None
    for frame in chain(container.decode(stream), [None]):
        if frame and frame.time is not None and frame.sample_rate:
            seen.end_s = max(seen.end_s, frame.time + frame.samples / frame.sample_rate)
        found = (frame.format.name, frame.layout.name, frame.sample_rate) if frame else None
        if found != kind and to_float is not None:
            yield from _floats(to_float, None, channels)
        if frame is None:
            return
        if found != kind:
            # Packed: of planar frames PyAV reads past the eighth channel, and past the end of some with eight.
            to_float, kind = av.AudioResampler(format="flt", layout=frame.layout, rate=rate_hz), found
        frame.pts = None  # gaps in time stamps are no reason to drop sound
        yield from _floats(to_float, frame, channels)


def _floats(to_float: Any, frame: Any, channels: int) -> Iterator[FloatArray]:
    """What the resampler makes of a frame, ``[frames, channels]`` float32; ``None`` asks for what it still holds."""
    for part in to_float.resample(frame):
        block = np.asarray(part.to_ndarray(), np.float32).reshape(part.samples, -1)
        if block.shape[1] != channels:  # one channel goes to all; of many, each gets the mean
            block = np.repeat(block.mean(axis=1, keepdims=True, dtype=np.float32), channels, axis=1)
        yield block


def _regrid(parts: Iterator[FloatArray], frames: int) -> Iterator[FloatArray]:
    """The same signal in blocks of exactly ``frames``, the last one shorter."""
    held: list[FloatArray] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if count >= frames:
            joined = np.concatenate(held)
            full = count - count % frames
            yield from (joined[start : start + frames] for start in range(0, full, frames))
            held, count = [joined[full:]], count - full
    if count:
        yield np.concatenate(held)


def _bounded(source: _Source) -> Iterator[FloatArray]:
    """The blocks, as many as a recording may have."""
    frames = 0
    for block in source.blocks():
        yield block
        frames += len(block)
        if frames > MAX_S * source.sample_rate_hz:
            found = f"more than {MAX_S // 86400} days of sound"
            raise AudioError(found, "a recording", "cut it, if it is one")


def _mono(blocks: Iterator[FloatArray]) -> Iterator[FloatArray]:
    """The mean of the channels, or the loudest channel where they cancel. Raises on NaN and infinity."""
    heard: NDArray[np.float64] | None = None
    for block in blocks:
        # float64 sums: a float32 sum of squares of huge samples could overflow to infinity.
        energy = np.einsum("ij,ij->j", block, block, dtype=np.float64)
        if not (energy <= MAX_MEAN_SQUARE * len(block)).all():
            what = "samples far beyond full scale" if np.isfinite(energy).all() else "NaN or infinity among the samples"
            raise AudioError(what, "finite samples around -1..1", "render it again")
        if block.shape[1] == 1:
            yield block[:, 0]
            continue
        heard = energy if heard is None else heard + energy
        # einsum throughout: measured, block.mean(axis=1) takes 4 times as long, and BLAS's dot wakes all its threads.
        mean = np.einsum("ij->i", block, dtype=np.float64) / block.shape[1]
        if np.einsum("i,i->", mean, mean) < energy.max() * 10 ** (-ANTI_PHASE_DB / 10):
            # Of those about as loud as the loudest, the loudest so far: equal channels must not swap between blocks.
            loud = energy >= energy.max() / 2
            yield block[:, int(np.argmax(np.where(loud, heard, -1.0)))]
        else:
            yield mean.astype(np.float32)


def resample(blocks: Iterable[FloatArray], source_hz: int, target_hz: int) -> Iterator[FloatArray]:
    """Mono blocks ``[n]`` at ``source_hz`` -> the same signal at ``target_hz``, streaming, soxr HQ."""
    if source_hz == target_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(source_hz, target_hz, 1, dtype="float32", quality="HQ")
    first, nothing = np.empty(0, np.float32), True
    for block in blocks:
        first = first if len(first) else block[:1]
        if len(out := stream.resample_chunk(np.ascontiguousarray(block))):
            nothing = False
            yield out
    if len(out := stream.resample_chunk(np.empty(0, np.float32), last=True)):
        yield out
    elif nothing and len(first):  # a click of a sample or two at a high rate is a sound all the same
        yield first


def _broken(error: Exception) -> AudioError:
    return AudioError(f"a file that breaks off while decoding ({decoder_said(error)})", "a whole file", "copy it again")


def decoder_said(error: Exception) -> str:
    """A decoder's own words, without the number and the URL that PyAV puts around FFmpeg's."""
    return str(getattr(error, "strerror", None) or error)
