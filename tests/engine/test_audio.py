"""Decoding, the mono rule and resampling, each against a slow and obvious version."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import audio
from engine.audio import BLOCK_S, naming, open_clip, read_samples, read_stretch, resample
from engine.errors import AudioError
from engine.types import FloatArray

RATE_HZ = 44_100


def sweep(seconds: float = 1.0, rate_hz: int = RATE_HZ, channels: int = 1) -> FloatArray:
    """A chirp ``[n, channels]``: unlike a tone it matches itself at one delay only."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    mono = 0.5 * np.sin(2 * np.pi * (300 * t + 500 * t * t / max(seconds, 1e-9)))
    return np.repeat(mono[:, None], channels, axis=1).astype(np.float32)


def write(path: Path, samples: FloatArray, rate_hz: int = RATE_HZ, subtype: str | None = "FLOAT", **more: str) -> Path:
    soundfile.write(path, samples, rate_hz, subtype=subtype, **more)
    return path


def likeness(found: FloatArray, wanted: FloatArray) -> tuple[float, int]:
    """The best correlation of two mono signals over all delays, and that delay in samples."""
    size = 1 << (len(found) + len(wanted)).bit_length()
    product = np.fft.irfft(np.fft.rfft(found, size) * np.conj(np.fft.rfft(wanted, size)), size)
    lag = int(product.argmax())
    return float(product.max() / np.linalg.norm(found) / np.linalg.norm(wanted)), lag if lag < size // 2 else lag - size


def mono_of(*blocks: FloatArray) -> FloatArray:
    return np.concatenate(list(audio._mono(iter(blocks))))


# Containers


SOUNDFILE_KINDS = [
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_U8"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "DOUBLE"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAVEX", "PCM_24"),
    ("flac", "FLAC", "PCM_24"),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("aiff", "AIFF", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("rf64", "RF64", "PCM_16"),
    ("wav", "RF64", "PCM_16"),
    ("caf", "CAF", "ALAC_16"),
    ("au", "AU", "PCM_16"),
]


@pytest.mark.parametrize(
    ("suffix", "kind", "subtype"), SOUNDFILE_KINDS, ids=[f"{k}-{s}" for _, k, s in SOUNDFILE_KINDS]
)
def test_libsndfile_formats_keep_rate_length_and_content(tmp_path: Path, suffix: str, kind: str, subtype: str) -> None:
    rate_hz = 48_000 if subtype == "OPUS" else RATE_HZ
    wanted = sweep(1.0, rate_hz, channels=2)
    path = write(tmp_path / f"x.{suffix}", wanted, rate_hz, subtype, format=kind)
    clip = open_clip(path, rate_hz)
    found = np.concatenate(list(clip.blocks))
    wanted_format = "wav" if kind in ("WAVEX", "RF64") else "opus" if suffix == "opus" else kind.lower()
    assert (clip.source_rate_hz, clip.channels, clip.format) == (rate_hz, 2, wanted_format)
    assert len(found) == pytest.approx(rate_hz, abs=4096 if "ADPCM" in subtype else 0)
    match, lag = likeness(found, wanted[:, 0])
    assert match > 0.99
    assert lag == 0


def encode(path: Path, codec: str, samples: FloatArray, rate_hz: int, with_picture: bool = False) -> Path:
    """Write ``[n, channels]`` with FFmpeg; skips the test where it has no such encoder."""
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    layout = {1: "mono", 2: "stereo"}[samples.shape[1]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz)
        stream.layout = layout
        if codec == "wmav2":
            stream.bit_rate = 128_000
        if with_picture:
            picture = container.add_stream("mpeg4", rate=10)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
            for frame in [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"), None]:
                container.mux(picture.encode(frame))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.rate, frame.pts = rate_hz, 0
        if not stream.codec_context.is_open:
            stream.codec_context.open()
        fit = av.AudioResampler(stream.format.name, layout, rate_hz, stream.codec_context.frame_size or None)
        for part in [*fit.resample(frame), *fit.resample(None), None]:
            container.mux(stream.encode(part))
    return path


AV_KINDS = [
    ("m4a", "aac", False),
    ("m4a", "alac", False),
    ("aac", "aac", False),
    ("opus", "libopus", False),
    ("webm", "libopus", False),
    ("wma", "wmav2", False),
    ("mka", "ac3", False),
    ("mkv", "flac", True),
    ("mp4", "aac", True),
    ("avi", "libmp3lame", True),
]


@pytest.mark.parametrize(("suffix", "codec", "video"), AV_KINDS, ids=[f"{s}-{c}" for s, c, _ in AV_KINDS])
@pytest.mark.parametrize("channels", [1, 2])
def test_ffmpeg_formats_keep_rate_length_and_content(
    tmp_path: Path, suffix: str, codec: str, video: bool, channels: int
) -> None:
    rate_hz = 48_000
    wanted = sweep(1.0, rate_hz, channels)
    path = encode(tmp_path / f"x.{suffix}", codec, wanted, rate_hz, with_picture=video)
    clip = open_clip(path, rate_hz)
    found = np.concatenate(list(clip.blocks))
    assert (clip.source_rate_hz, clip.channels, clip.format) == (rate_hz, channels, suffix)
    lost = 2048 if codec == "wmav2" else 0  # FFmpeg's own encoder drops a frame
    assert -lost <= len(found) - rate_hz <= 8192  # an encoder may pad at both ends
    match, lag = likeness(found, wanted[:, 0])
    assert match > 0.97
    assert -lost <= lag <= 4096


@pytest.mark.parametrize(
    ("container", "name", "wanted"),
    [
        ("RF64", "x.wav", "wav"),
        ("FLAC", "x.wav", "flac"),
        ("OGG", "x.ogg", "ogg"),
        ("OGG", "x.OPUS", "opus"),
        ("mov,mp4,m4a,3gp,3g2,mj2", "x.M4A", "m4a"),
        ("mov,mp4,m4a,3gp,3g2,mj2", "x.mov", "mov"),
        ("mov,mp4,m4a,3gp,3g2,mj2", "x.wav", "mp4"),
        ("mov,mp4,m4a,3gp,3g2,mj2", "x", "mp4"),
        ("matroska,webm", "x.webm", "webm"),
        ("matroska,webm", "x.mkv", "mkv"),
        ("matroska,webm", "x.mp4", "mkv"),
        ("asf", "x.wma", "wma"),
        ("asf", "x.wmv", "wmv"),
        ("mpegts", "x.mts", "mts"),
    ],
)
def test_a_format_is_called_what_people_call_it(container: str, name: str, wanted: str) -> None:
    assert audio.format_name(container, Path(name)) == wanted


@pytest.mark.parametrize("first", [1, 2])
def test_channels_may_change_in_the_middle(tmp_path: Path, first: int) -> None:
    one = encode(tmp_path / "one.aac", "aac", sweep(1.0, 48_000, first), 48_000)
    two = encode(tmp_path / "two.aac", "aac", sweep(1.0, 48_000, 3 - first), 48_000)
    joined = tmp_path / "joined.aac"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    clip = open_clip(joined, 48_000)
    assert clip.channels == first
    found = np.concatenate(list(clip.blocks))
    parts = [read_samples(one, 48_000), read_samples(two, 48_000)]
    assert len(found) == sum(map(len, parts))
    np.testing.assert_allclose(found[: len(parts[0])], parts[0], atol=1e-6)
    assert likeness(found[len(parts[0]) :], parts[1])[0] > 0.99  # the decoder carries some of the first part over


def test_the_rate_may_change_in_the_middle(tmp_path: Path) -> None:
    one = encode(tmp_path / "one.aac", "aac", sweep(1.0, 48_000), 48_000)
    two = encode(tmp_path / "two.aac", "aac", sweep(1.0, 24_000), 24_000)
    joined = tmp_path / "joined.aac"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    found = read_samples(joined, 48_000)
    assert len(found) == pytest.approx(len(read_samples(one, 48_000)) + len(read_samples(two, 48_000)), abs=100)
    assert likeness(found[-50_000:], sweep(1.0, 48_000)[:, 0])[0] > 0.95


@pytest.mark.parametrize("channels", [1, 2, 6, 8, 24, 64])
def test_ffmpeg_gives_what_libsndfile_gives(tmp_path: Path, channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (int(21.3 * 1000), channels)).astype(np.float32)
    path = write(tmp_path / "x.wav", samples, 1000)
    one, other = audio._open_soundfile(path), audio._open_av(path)
    assert one is not None
    pairs = list(zip(one.blocks(), other.blocks(), strict=True))
    assert [len(a) for a, _ in pairs] == [10_000, 10_000, 1300]
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("rate_hz", [8000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000, 384_000])
def test_every_rate_becomes_the_asked_one(tmp_path: Path, rate_hz: int) -> None:
    path = write(tmp_path / "x.wav", sweep(0.7, rate_hz), rate_hz)
    found = read_samples(path, 16_000)
    assert len(found) == pytest.approx(0.7 * 16_000, abs=2)
    assert likeness(found, sweep(0.7, 16_000)[:, 0])[0] > 0.999


@pytest.mark.parametrize("source_hz", [8000, 16_000, 22_050])
def test_a_file_of_one_sample_is_heard(tmp_path: Path, source_hz: int) -> None:
    found = read_samples(write(tmp_path / "x.wav", np.array([[0.5]], np.float32), source_hz), 16_000)
    assert len(found) == round(16_000 / source_hz)
    assert np.isfinite(found).all()


def test_the_same_file_twice_gives_the_same_bits(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).standard_normal((int(1.5 * BLOCK_S * 11_025), 2)).astype(np.float32) * 0.1
    path = write(tmp_path / "x.wav", samples, 11_025)
    assert read_samples(path, 16_000).tobytes() == read_samples(path, 16_000).tobytes()


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", sweep(0.1), subtype="PCM_16", format="FLAC")
    assert open_clip(path, RATE_HZ).format == "flac"


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX only")
@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"concat:x.wav", b"100%d.wav", "каша 犬.wav".encode(), b"-x.wav"])
def test_any_file_name_is_opened(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    try:
        write(tmp_path / "x.wav", sweep(0.1)).rename(path)
    except OSError:
        pytest.skip("this file system does not take the name")
    assert len(read_samples(path, RATE_HZ)) == 4410


def test_a_protocol_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "x.m4a", "aac", sweep(0.5), RATE_HZ).rename(tmp_path / "concat:x.m4a")
    assert len(read_samples(Path("concat:x.m4a"), RATE_HZ)) >= 0.5 * RATE_HZ


# The block grid and memory


@pytest.mark.parametrize("extra", [-1, 0, 1], ids=["short of", "at", "past"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_blocks_lie_on_the_grid(tmp_path: Path, blocks: int, extra: int) -> None:
    grid = round(BLOCK_S * 8000)
    samples = np.random.default_rng(2).uniform(-1, 1, (blocks * grid + extra, 1)).astype(np.float32)
    found = list(open_clip(write(tmp_path / "x.wav", samples, 8000), 8000).blocks)
    whole, rest = divmod(len(samples), grid)
    assert [len(block) for block in found] == [grid] * whole + [rest] * bool(rest)
    np.testing.assert_array_equal(np.concatenate(found), samples[:, 0])


@pytest.mark.parametrize(("suffix", "subtype"), [("mp3", None), ("ogg", "VORBIS"), ("flac", None)])
def test_blocks_join_to_the_whole_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, subtype: str | None
) -> None:
    path = write(tmp_path / f"x.{suffix}", sweep(5.0, channels=2), subtype=subtype)
    whole, _ = soundfile.read(path, dtype="float32")
    monkeypatch.setattr(audio, "BLOCK_S", 0.3)
    np.testing.assert_allclose(read_samples(path, RATE_HZ), whole.mean(axis=1), atol=1e-6)


@given(sizes=st.lists(st.integers(0, 50), max_size=30), frames=st.integers(1, 40))
def test_regridding_loses_and_moves_nothing(sizes: list[int], frames: int) -> None:
    signal = np.arange(sum(sizes) * 2, dtype=np.float32).reshape(-1, 2)
    parts = np.split(signal, np.cumsum(sizes)[:-1]) if sizes else []
    found = list(audio._regrid(iter(parts), frames))
    np.testing.assert_array_equal(np.concatenate([signal[:0], *found]), signal)
    assert all(len(block) == frames for block in found[:-1])
    assert all(0 < len(block) <= frames for block in found)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (48_000, 2), (384_000, 64), (192_000, 1), (1, 1000)])
def test_a_block_is_bounded(rate_hz: int, channels: int) -> None:
    frames = audio.block_frames(rate_hz, channels)
    assert 1 <= frames <= BLOCK_S * rate_hz
    assert frames * channels <= audio.MAX_BLOCK_VALUES


def test_a_long_file_takes_bounded_memory(tmp_path: Path) -> None:
    minutes, path = 40, tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 16_000, 1, subtype="PCM_16") as file:
        for _ in range(minutes):
            file.write(np.zeros(60 * 16_000, np.int16))
    tracemalloc.start()
    try:
        heard = sum(len(block) for block in open_clip(path, 8000).blocks)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert heard == minutes * 60 * 8000
    assert peak < 8e6  # the whole file would be 154 MB


# Mono


def slow_mono(block: FloatArray) -> FloatArray:
    """The mean, sample by sample, for channels that do not cancel."""
    return np.array([sum(float(value) for value in frame) / len(frame) for frame in block], np.float32)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_mono_is_the_mean_of_the_channels(channels: int) -> None:
    block = np.random.default_rng(channels).uniform(-1, 1, (500, channels)).astype(np.float32)
    np.testing.assert_allclose(mono_of(block), slow_mono(block), atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e9], ids=["full scale", "next to nothing", "integers as floats"])
def test_equal_channels_stay_what_they_are_at_any_level(scale: float) -> None:
    block = (sweep(0.1, channels=2) * scale).astype(np.float32)
    np.testing.assert_array_equal(mono_of(block), block[:, 0])


@pytest.mark.parametrize(("drop_db", "cancelled"), [(19.9, False), (20.1, True), (200.0, True)])
def test_the_loudest_channel_is_taken_from_20_db_on(drop_db: float, cancelled: bool) -> None:
    # With R = (2a - 1) L the mean is a L; a sets how far it falls below L, the louder one.
    a = 10 ** (-drop_db / 20)
    left = sweep(0.2)[:, 0]
    block = np.stack([(2 * a - 1) * left, left], axis=1).astype(np.float32)
    wanted = left if cancelled else a * left
    np.testing.assert_allclose(np.abs(mono_of(block)), np.abs(wanted), atol=1e-6)


def test_opposite_channels_are_heard_not_cancelled() -> None:
    left = sweep(0.2)[:, 0]
    found = mono_of(np.stack([left, -left], axis=1))
    np.testing.assert_array_equal(np.abs(found), np.abs(left))


def test_the_rule_is_decided_block_by_block() -> None:
    left = sweep(0.1)[:, 0]
    same, opposite = np.stack([left, left], axis=1), np.stack([left, -left], axis=1)
    np.testing.assert_array_equal(mono_of(same, opposite, same), np.tile(left, 3))


def test_equal_channels_do_not_swap_between_blocks() -> None:
    rng = np.random.default_rng(3)
    left = rng.uniform(-0.5, 0.5, (6, 2000)).astype(np.float32)
    blocks = [np.stack([x, -x + rng.normal(0, 1e-4, x.shape)], axis=1).astype(np.float32) for x in left]
    signs = [np.sign(np.dot(mono_of(*blocks)[i * 2000 : (i + 1) * 2000], left[i])) for i in range(6)]
    assert len(set(signs)) == 1


def test_a_channel_that_fell_silent_is_not_the_loudest() -> None:
    tone = sweep(0.1)[:, 0]
    quiet = np.zeros_like(tone)
    first, then = np.stack([tone, quiet, quiet], axis=1), np.stack([quiet, 0.1 * tone, -0.1 * tone], axis=1)
    np.testing.assert_allclose(np.abs(mono_of(first, then)[len(tone) :]), np.abs(0.1 * tone), atol=1e-7)


def test_silence_and_six_channels() -> None:
    assert not mono_of(np.zeros((100, 2), np.float32)).any()
    centre = np.zeros((4410, 6), np.float32)
    centre[:, 2] = sweep(0.1)[:, 0]
    np.testing.assert_allclose(mono_of(centre), centre[:, 2] / 6, atol=1e-7)  # 15.6 dB: a mean, no anti-phase


# Resampling


@pytest.mark.parametrize(("source_hz", "target_hz"), [(44_100, 16_000), (8000, 48_000), (384_000, 16_000), (7, 16)])
def test_streaming_resampling_is_the_resampling_of_the_whole(source_hz: int, target_hz: int) -> None:
    signal = np.random.default_rng(4).uniform(-1, 1, 60_001).astype(np.float32)
    blocks = np.split(signal, [1, 2, 1000, 30_000])
    found = np.concatenate(list(resample(blocks, source_hz, target_hz)))
    wanted = soxr.resample(signal, source_hz, target_hz, quality="HQ")
    assert len(found) == len(wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_resampling_to_the_same_rate_changes_nothing() -> None:
    signal = sweep(0.1)[:, 0]
    np.testing.assert_array_equal(np.concatenate(list(resample([signal[:7], signal[7:]], 8000, 8000))), signal)


def test_resampling_nothing_gives_nothing() -> None:
    assert sum(len(block) for block in resample([], 44_100, 16_000)) == 0


# What can't be heard


def broken_files(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """A name, a file and a word that the error must hold."""
    (folder / "empty.wav").touch()
    yield "empty", folder / "empty.wav", "empty"
    (folder / "text.wav").write_text("this is no sound\n" * 40)
    yield "text", folder / "text.wav", "neither"
    (folder / "bytes.mp3").write_bytes(bytes(range(1, 200)) * 9)
    yield "bytes", folder / "bytes.mp3", ""
    (folder / "samples.raw").write_bytes(bytes(999))
    yield "raw", folder / "samples.raw", ""
    yield "missing", folder / "missing.wav", "No such file"
    (folder / "folder.wav").mkdir()
    yield "folder", folder / "folder.wav", "directory"
    for name, value in [("nan", np.nan), ("inf", np.inf), ("minus inf", -np.inf)]:
        samples = sweep(0.1, channels=2)
        samples[1234, 1] = value
        yield name, write(folder / f"{name}.wav", samples), "NaN or infinity"
    yield "huge", write(folder / "huge.wav", np.full((999, 2), 3e38, np.float32)), "full scale"
    noise = np.random.default_rng(5).uniform(-1, 1, (RATE_HZ, 1)).astype(np.float32)
    for kind, subtype in [("flac", None), ("wav", "PCM_16"), ("aiff", "PCM_16"), ("rf64", "PCM_16")]:
        path = write(folder / f"cut.{kind}", noise, subtype=subtype)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        yield f"cut {kind}", path, "whole file"


BROKEN = [
    *("empty", "text", "bytes", "raw", "missing", "folder", "nan", "inf", "minus inf", "huge"),
    *("cut flac", "cut wav", "cut aiff", "cut rf64"),
]


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_heard_says_why(tmp_path: Path, name: str) -> None:
    path, word = {key: (path, word) for key, path, word in broken_files(tmp_path)}[name]
    with pytest.raises(AudioError) as caught:
        read_samples(path, 16_000)
    error = caught.value
    assert error.found
    assert error.expected
    assert error.action
    assert word in str(error)
    assert path.name not in str(error), "it may be printed beside it, and copies share the reason"
    with pytest.raises(AudioError) as named, naming(path):
        raise error
    assert named.value.found == f"{path}: {error.found}"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", sweep(0.1))
    path.chmod(0)
    with pytest.raises(AudioError, match="Permission denied; expected a readable file"):
        open_clip(path, 16_000)


def test_a_video_without_sound_says_so(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        for frame in [av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"), None]:
            container.mux(picture.encode(frame))
    with pytest.raises(AudioError, match="no sound track"):
        open_clip(path, 16_000)


def with_data_size(path: Path, size: int) -> Path:
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x80000000], ids=["ffmpeg", "sox", "arecord"])
def test_a_wav_from_a_pipe_is_no_broken_file(tmp_path: Path, size: int) -> None:
    path = with_data_size(write(tmp_path / "x.wav", sweep(0.5), subtype="PCM_16"), size)
    assert len(read_samples(path, RATE_HZ)) >= 0.5 * RATE_HZ


@pytest.mark.parametrize("extra", [1, 8, 44, 1000])
def test_a_header_that_counts_itself_is_no_broken_file(tmp_path: Path, extra: int) -> None:
    path = write(tmp_path / "x.wav", sweep(0.5), subtype="PCM_16")
    assert len(read_samples(with_data_size(path, RATE_HZ + extra), RATE_HZ)) >= 0.5 * RATE_HZ


# Stretches


STRETCH_KINDS = [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", None), ("ogg", "VORBIS"), ("mp3", None), ("m4a", "aac")]


@pytest.mark.parametrize(("suffix", "subtype"), STRETCH_KINDS, ids=[f"{s}-{t}" for s, t in STRETCH_KINDS])
@pytest.mark.parametrize(("start_s", "end_s"), [(0.0, 0.5), (0.333, 1.2), (9.9, 10.3), (11.9, 99.0), (-1.0, 0.1)])
def test_a_stretch_is_exact(tmp_path: Path, suffix: str, subtype: str | None, start_s: float, end_s: float) -> None:
    path, samples = tmp_path / f"x.{suffix}", sweep(12.0, channels=2)
    if suffix == "m4a":
        encode(path, "aac", samples, RATE_HZ)
        whole = np.concatenate(list(audio._open_av(path).blocks()))
    else:
        whole, _ = soundfile.read(write(path, samples, subtype=subtype), dtype="float32", always_2d=True)
    found, rate_hz = read_stretch(path, start_s, end_s)
    assert rate_hz == RATE_HZ
    wanted = whole[round(max(0.0, start_s) * RATE_HZ) : round(end_s * RATE_HZ)]
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("start_s", "end_s"), [(5.0, 6.0), (0.4, 0.2), (-2.0, -1.0), (0.3, 0.3)])
@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_a_stretch_of_nothing_is_empty(tmp_path: Path, suffix: str, start_s: float, end_s: float) -> None:
    path = write(tmp_path / f"x.{suffix}", sweep(0.5, channels=2), subtype=None)
    assert read_stretch(path, start_s, end_s)[0].shape == (0, 2)


def test_a_stretch_of_a_file_that_cannot_be_heard_says_why(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_text("no sound" * 99)
    with pytest.raises(AudioError, match="neither"):
        read_stretch(tmp_path / "x.wav", 0, 1)


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 3000), length=st.integers(0, 3000))
def test_stretches_of_a_wav_against_slices(start: int, length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "stretch.wav"
    samples = np.random.default_rng(6).uniform(-1, 1, (2500, 1)).astype(np.float32)
    if not path.exists():
        write(path, samples, 8000)
    found, _ = read_stretch(path, start / 8000, (start + length) / 8000)
    np.testing.assert_array_equal(found, samples[start : start + length])
