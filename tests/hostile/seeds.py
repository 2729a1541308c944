"""One small sound in every container that ``engine.audio`` reads, with tags: what the fuzz starts from."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import mutagen
import mutagen.flac
import mutagen.id3
import numpy as np
import soundfile

from engine.types import FloatArray
from tests.sounds import noise, tone

SECONDS = 0.4
Maker = Callable[[Path], None]

_SOUNDFILE = {
    "wav-pcm": ("wav", "WAV", "PCM_16", 16_000, 2),
    "wav-u8": ("wav", "WAV", "PCM_U8", 8_000, 1),
    "wav-float": ("wav", "WAV", "FLOAT", 16_000, 1),
    "wav-adpcm": ("wav", "WAV", "IMA_ADPCM", 16_000, 1),
    "wav-msadpcm": ("wav", "WAV", "MS_ADPCM", 16_000, 1),
    "wav-gsm": ("wav", "WAV", "GSM610", 8_000, 1),
    "wavex": ("wav", "WAVEX", "PCM_24", 16_000, 3),
    "rf64": ("rf64", "RF64", "PCM_16", 16_000, 2),
    "w64": ("w64", "W64", "PCM_16", 16_000, 2),
    "aiff": ("aiff", "AIFF", "PCM_24", 16_000, 1),
    "flac": ("flac", "FLAC", "PCM_16", 16_000, 2),
    "ogg": ("ogg", "OGG", "VORBIS", 16_000, 2),
    "opus": ("opus", "OGG", "OPUS", 48_000, 1),
    "mp3": ("mp3", "MP3", "MPEG_LAYER_III", 16_000, 1),
    "caf-alac": ("caf", "CAF", "ALAC_16", 16_000, 1),
    "au": ("au", "AU", "PCM_16", 16_000, 1),
    "voc": ("voc", "VOC", "PCM_16", 16_000, 1),
    "nist": ("nist", "NIST", "PCM_16", 16_000, 1),
    "ircam": ("ircam", "IRCAM", "PCM_16", 16_000, 1),
    "avr": ("avr", "AVR", "PCM_16", 16_000, 1),
    "svx": ("svx", "SVX", "PCM_16", 16_000, 1),
    "paf": ("paf", "PAF", "PCM_16", 16_000, 1),
}
_AV = {
    "m4a-aac": ("m4a", "aac", 16_000, False),
    "m4a-alac": ("m4a", "alac", 16_000, False),
    "aac": ("aac", "aac", 16_000, False),
    "webm": ("webm", "libopus", 48_000, False),
    "wma": ("wma", "wmav2", 44_100, False),
    "mka-ac3": ("mka", "ac3", 32_000, False),
    "mkv-flac": ("mkv", "flac", 16_000, True),
    "mp4-video": ("mp4", "aac", 16_000, True),
    "mov-pcm": ("mov", "pcm_s16le", 16_000, False),
    "avi-mp3": ("avi", "libmp3lame", 16_000, True),
    "wavpack": ("wv", "wavpack", 16_000, False),
    "tta": ("tta", "tta", 16_000, False),
    "amr": ("amr", "libopencore_amrnb", 8_000, False),
    "mpegts": ("ts", "mp2", 16_000, False),
    "flv": ("flv", "aac", 44_100, False),
}
#: Encoders that won't open at FFmpeg's default of 128 kbit/s, or only there.
_BIT_RATES = {"wmav2": 128_000, "libopencore_amrnb": 12_200}


def makers() -> dict[str, tuple[str, Maker]]:
    """Name of the seed -> its suffix and what writes it to a path; those that this FFmpeg can't write are absent."""
    found: dict[str, tuple[str, Maker]] = {}
    for name, (suffix, *kind) in _SOUNDFILE.items():
        found[name] = (suffix, partial(_with_soundfile, *kind))
    for name, (suffix, codec, rate_hz, video) in _AV.items():
        try:
            av.codec.Codec(codec, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        found[name] = (suffix, partial(_with_av, codec, rate_hz, video))
    return found


def write_seeds(folder: Path) -> dict[str, Path]:
    """Every seed in ``folder``, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, (suffix, make) in makers().items():
        paths[name] = folder / f"{name}.{suffix}"
        make(paths[name])
    return paths


def _samples(rate_hz: int, channels: int) -> FloatArray:
    mono = tone(SECONDS, rate_hz=rate_hz, hz=700) + noise(SECONDS, rate_hz=rate_hz, peak=0.05)
    return np.repeat(mono[:, None], channels, axis=1)


def _with_soundfile(kind: str, subtype: str, rate_hz: int, channels: int, path: Path) -> None:
    with soundfile.SoundFile(path, "w", rate_hz, channels, subtype=subtype, format=kind) as file:
        for name in ("title", "artist", "comment"):
            try:
                setattr(file, name, f"a {name}")
            except soundfile.LibsndfileError:  # this container keeps no texts
                break
        file.write(_samples(rate_hz, channels))
    _tag(path, kind)


def _tag(path: Path, kind: str) -> None:
    """Tags with a picture, for mutagen and the walk over chunks to trip over."""
    if kind == "MP3":
        id3 = mutagen.id3.ID3()
        id3.add(mutagen.id3.TIT2(encoding=3, text="mutant"))
        id3.add(mutagen.id3.COMM(encoding=3, lang="eng", desc="", text="a comment"))
        id3.add(mutagen.id3.APIC(encoding=3, mime="image/png", type=3, desc="", data=bytes(200)))
        id3.save(path)
    elif kind == "FLAC":
        file = mutagen.flac.FLAC(path)
        picture = mutagen.flac.Picture()
        picture.data = bytes(200)
        file.add_picture(picture)
        file.save()
    elif kind == "WAV":
        bext = b"a description".ljust(602, b"\0")
        ixml = b"<BWFXML><NOTE>windy</NOTE></BWFXML> "
        content = path.read_bytes()
        extra = b"".join(
            name + struct.pack("<I", len(body)) + body for name, body in ((b"bext", bext), (b"iXML", ixml))
        )
        size = struct.pack("<I", len(content) - 8 + len(extra))
        path.write_bytes(content[:4] + size + content[8:12] + extra + content[12:])


def _with_av(codec: str, rate_hz: int, video: bool, path: Path) -> None:
    out = io.BytesIO()
    kinds = {"m4a": "ipod", "mka": "matroska", "mkv": "matroska", "wma": "asf", "aac": "adts", "ts": "mpegts"}
    suffix = path.suffix.removeprefix(".")
    with av.open(out, "w", format=kinds.get(suffix, suffix)) as container:
        container.metadata["title"] = "mutant"
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        if codec in _BIT_RATES:
            stream.bit_rate = _BIT_RATES[codec]
        if video:
            _add_picture(container)
        frame = av.AudioFrame.from_ndarray(_samples(rate_hz, 1).T.copy(), format="fltp", layout="mono")
        frame.rate, frame.pts = rate_hz, 0
        if not stream.codec_context.is_open:
            stream.codec_context.open()
        fit = av.AudioResampler(stream.format.name, "mono", rate_hz, stream.codec_context.frame_size or None)
        for part in [*fit.resample(frame), *fit.resample(None), None]:
            container.mux(stream.encode(part))
    path.write_bytes(out.getvalue())
    if suffix == "m4a":
        file = mutagen.File(path)
        file["\xa9nam"] = "mutant"
        file.save()


def _add_picture(container: av.container.OutputContainer) -> None:
    picture = container.add_stream("mpeg4", rate=10)
    picture.width = picture.height = 32
    picture.pix_fmt = "yuv420p"
    for frame in [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"), None]:
        container.mux(picture.encode(frame))
