"""Cutting, against a version that has the whole clip in memory."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import AudioError
from engine.types import FloatArray, Pad, Space
from engine.windows import cut, pad_to, window_starts


def space(window: int, hop: int, pad: Pad = "zero", rate_hz: int = 10) -> Space:
    return Space("test@000000000000", 4, rate_hz, window / rate_hz, hop / rate_hz, pad)


def slow_starts(length: int, window: int, hop: int) -> list[int]:
    """Every start at which a whole window fits, and the one that ends with the clip where they stop short of it."""
    starts = [start for start in range(0, length, hop) if start + window <= length]
    if starts and starts[-1] + window < length:
        starts.append(length - window)
    return starts or [0]


def slow_samples(clip: FloatArray, start: int, window: int, pad: Pad) -> list[float]:
    samples = [float(x) for x in clip[start : start + window]]
    have = len(samples)
    repeated = {"repeat": window, "repeatpad": window // have * have, "zero": 0}[pad]
    while len(samples) < window:
        samples.append(samples[len(samples) % have] if len(samples) < repeated else 0.0)
    return samples


def pieces(clip: FloatArray, splits: list[int]) -> list[FloatArray]:
    return np.split(clip, sorted(split % (len(clip) + 1) for split in splits))


@given(
    length=st.integers(1, 120),
    window=st.integers(1, 40),
    hop=st.integers(1, 40),
    pad=st.sampled_from(["repeat", "repeatpad", "zero"]),
    splits=st.lists(st.integers(0, 200), max_size=12),
)
def test_cuts_are_those_of_the_whole_clip(length: int, window: int, hop: int, pad: Pad, splits: list[int]) -> None:
    hop = min(hop, window)
    clip = np.arange(1, length + 1, dtype=np.float32)
    found = list(cut(pieces(clip, splits), space(window, hop, pad)))
    starts = slow_starts(length, window, hop)
    assert window_starts(length, window, hop) == starts
    assert [w.index for w in found] == list(range(len(starts)))
    for cut_window, start in zip(found, starts, strict=True):
        assert cut_window.samples.dtype == np.float32
        assert cut_window.samples.tolist() == slow_samples(clip, start, window, pad)
        assert cut_window.start_s == pytest.approx(start / 10)
        assert cut_window.end_s == pytest.approx(min(start + window, length) / 10)


@given(length=st.integers(1, 200), window=st.integers(1, 50), hop=st.integers(1, 50))
def test_windows_cover_the_clip_and_end_with_it(length: int, window: int, hop: int) -> None:
    hop = min(hop, window)
    found = list(cut([np.zeros(length, np.float32)], space(window, hop)))
    assert found[0].start_s == 0
    assert found[-1].end_s == pytest.approx(length / 10)
    assert all(w.end_s <= length / 10 + 1e-9 for w in found)
    assert all(a.start_s < b.start_s <= a.end_s + 1e-9 for a, b in pairwise(found))


@pytest.mark.parametrize("length", [30, 31, 39, 40, 41, 50])
def test_no_two_windows_are_the_same(length: int) -> None:
    found = list(cut([np.arange(length, dtype=np.float32)], space(20, 10)))
    assert len({w.samples.tobytes() for w in found}) == len(found)


@pytest.mark.parametrize("blocks", [[], [np.empty(0, np.float32)], [np.empty(0, np.float32)] * 3])
def test_no_samples_is_an_error(blocks: list[FloatArray]) -> None:
    with pytest.raises(AudioError, match="no samples"):
        list(cut(blocks, space(20, 10)))


@pytest.mark.parametrize(
    ("pad", "wanted"),
    [
        ("repeat", [1, 2, 3, 1, 2, 3, 1, 2]),
        ("repeatpad", [1, 2, 3, 1, 2, 3, 0, 0]),
        ("zero", [1, 2, 3, 0, 0, 0, 0, 0]),
    ],
)
def test_padding(pad: Pad, wanted: list[float]) -> None:
    assert pad_to(np.array([1, 2, 3], np.float32), 8, pad).tolist() == wanted


def test_a_window_keeps_its_samples_while_the_stream_goes_on() -> None:
    rng = np.random.default_rng(0)
    clip = rng.uniform(-1, 1, 1000).astype(np.float32)
    windows = list(cut(np.split(clip, 100), space(64, 32)))
    for window in windows:
        start = round(window.start_s * 10)
        np.testing.assert_array_equal(window.samples, clip[start : start + 64])


def test_windows_come_as_soon_as_they_are_whole() -> None:
    given_out = 0

    def blocks() -> Iterator[FloatArray]:
        nonlocal given_out
        while True:
            given_out += 1
            yield np.zeros(10, np.float32)

    stream = cut(blocks(), space(20, 10))
    assert [next(stream).index for _ in range(5)] == [0, 1, 2, 3, 4]
    assert given_out <= 7


def test_a_long_stream_takes_bounded_memory() -> None:
    tracemalloc.start()
    try:
        hour = (np.zeros(16_000, np.float32) for _ in range(3600))
        (last,) = deque(cut(hour, space(16_000, 8000, rate_hz=16_000)), maxlen=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last.end_s == 3600
    assert peak < 1e6  # the whole hour would be 230 MB
