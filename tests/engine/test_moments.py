"""Windows that sound alike are one moment, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from engine.bundle import Calibration
from engine.moments import UNMEASURED, alike_from, settled, stretches
from engine.types import FloatArray, Nothing, Window


def _windows(kinds: str, hop_s: float = 0.5) -> Iterator[tuple[Window, FloatArray]]:
    """A letter a window: windows of one letter are nearly alike, others are at right angles."""
    chance = np.random.default_rng(0)
    for index, kind in enumerate(kinds):
        vector = 0.05 * chance.standard_normal(8).astype(np.float32)
        vector["abcdefgh".index(kind)] += 1
        yield Window(index, index * hop_s, index * hop_s + 1, np.empty(0, np.float32)), vector / np.linalg.norm(vector)


def test_neighbours_that_sound_alike_are_one() -> None:
    found = list(stretches(_windows("aaabba"), 0.8))
    assert [(one.start_s, one.end_s) for one in found] == [(0, 1.5), (1.5, 2.5), (2.5, 3.5)]
    assert [int(one.vector.argmax()) for one in found] == [0, 1, 0]
    np.testing.assert_allclose([np.linalg.norm(one.vector) for one in found], 1, atol=1e-6)


def test_a_moment_is_the_mean_of_its_windows() -> None:
    windows = list(_windows("aaaa"))
    mean = sum(vector for _, vector in windows)
    (found,) = stretches(windows, 0.8)
    np.testing.assert_allclose(found.vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_moments_follow_upon_each_other() -> None:
    found = list(stretches(_windows("abacaddaab" * 5), 0.8))
    assert all(one.end_s == after.start_s for one, after in pairwise(found))


def test_ten_thousand_windows_are_read_one_by_one() -> None:
    read = 0

    def counted() -> Iterator[tuple[Window, FloatArray]]:
        nonlocal read
        for pair in _windows("ab" * 5000):
            read += 1
            yield pair

    moments = stretches(counted(), 0.8)
    next(moments)
    assert read == 2
    assert 1 + sum(1 for _ in moments) == 10_000


def test_what_is_alike_is_where_the_curve_reaches_the_cutoff() -> None:
    curve = Calibration(slope=20.0, intercept=-15.0, cutoff=0.7)
    assert curve.relevance(alike_from({"audio": curve})) == pytest.approx(0.7)
    assert alike_from({}) == UNMEASURED
    assert alike_from({"audio": Calibration(10.0, 0.0, 0.0)}) == UNMEASURED


KINDS: dict[str, Nothing] = {"n": "noise", "s": "silent", "e": ""}


def _alike(kinds: str) -> Iterator[tuple[Window, FloatArray]]:
    """Windows that a tower can't tell apart; their samples say n(oise), s(ilence) or e(vent)."""
    for index, kind in enumerate(kinds):
        window = Window(index, index * 0.5, index * 0.5 + 1, np.empty(0, np.float32), KINDS[kind])
        yield window, np.eye(8, dtype=np.float32)[0]


@pytest.mark.parametrize("kinds", ["ssssesssss", "nnnneennnn", "ssssssss", "e" + 19 * "s", "sne"])
def test_an_event_is_a_moment_of_its_own_however_alike_its_neighbours(kinds: str) -> None:
    changes = [0, *(n for n, (one, after) in enumerate(pairwise(kinds), 1) if one != after)]
    found = list(stretches(_alike(kinds), 0.8))
    assert [(one.start_s, one.eventless) for one in found] == [(0.5 * n, KINDS[kinds[n]]) for n in changes]


@pytest.mark.parametrize(
    ("kinds", "by_vector", "expected"),
    [
        ("nnennn", True, "nnnnnn"),
        ("nnennn", False, "nnennn"),
        ("nneenn", True, "nneenn"),
        ("ennnne", True, "ennnne"),
        ("ssesss", True, "ssesss"),
        ("eeneee", False, "eeeeee"),
        ("nenenn", True, "nnnnnn"),
        ("e", True, "e"),
        ("", True, ""),
    ],
)
def test_an_odd_window_is_as_its_neighbours_where_its_vector_agrees(kinds: str, by_vector: bool, expected: str) -> None:
    found = [window.eventless for window, _ in settled(_alike(kinds), lambda _: by_vector)]
    assert found == [KINDS[kind] for kind in expected]
