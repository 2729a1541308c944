"""Projection against the formula written out, and its bound against what the nearest really leave out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import QueryError
from engine.projection import laid_out, nearest, project, project_nearest, tail_share
from engine.types import FloatArray

TAUS = st.floats(1e-3, 2.0)
SEEDS = st.integers(0, 10_000)


def _units(seed: int, n: int, dim: int = 8) -> FloatArray:
    found = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _slow(sound: FloatArray, texts: FloatArray, tau: float) -> tuple[list[float], list[float]]:
    """Equations 4 and 5, a number at a time; the largest power is taken out, which changes nothing."""
    cosines = [sum(float(a) * float(b) for a, b in zip(sound, text, strict=True)) for text in texts]
    powers = [math.exp((cosine - max(cosines)) / tau) for cosine in cosines]
    weights = [power / sum(powers) for power in powers]
    return [sum(w * float(text[i]) for w, text in zip(weights, texts, strict=True)) for i in range(len(sound))], weights


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 20), TAUS)
def test_project_is_the_formula(seed: int, count: int, sounds: int, tau: float) -> None:
    texts, heard = _units(seed, count), _units(seed + 1, sounds)
    found = project(heard, texts, tau, renormalise=False)
    unit = project(heard, texts, tau).points
    for number, sound in enumerate(heard):
        point, weights = _slow(sound, texts, tau)
        np.testing.assert_allclose(found.points[number], point, atol=2e-4)
        length = math.sqrt(sum(x * x for x in point))
        np.testing.assert_allclose(unit[number], np.array(point) / length, atol=2e-3 / min(length, 1))
        heaviest = sorted(weights, reverse=True)[: found.rows.shape[1]]
        np.testing.assert_allclose(found.weights[number], heaviest, atol=1e-3)
        np.testing.assert_allclose(found.cosines[number], texts[found.rows[number]] @ sound, atol=1e-6)
    np.testing.assert_allclose(project(heard, laid_out(texts), tau).points, unit, atol=1e-3)


@settings(max_examples=80, deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(1, 60), TAUS, st.booleans())
def test_the_bound_holds_whatever_is_left_out(seed: int, count: int, k: int, tau: float, renormalise: bool) -> None:
    texts, sound = _units(seed, count), _units(seed + 1, 1)
    cosines = texts @ sound[0]
    near = np.argsort(-cosines, kind="stable")[:k]
    bounded = project_nearest(cosines[near], texts[near], count, tau, renormalise)
    exact = project(sound, texts, tau, renormalise).points[0]
    assert float(np.linalg.norm(bounded.point - exact)) <= bounded.error + 1e-4 / max(tau, 0.05)
    assert bounded.weights.sum() == pytest.approx(1, abs=1e-5)
    if k >= count:
        assert bounded.error == 0
    left_out = np.exp((np.delete(cosines, near) - cosines.max()).astype(np.float64) / tau).sum()
    whole = np.exp((cosines - cosines.max()).astype(np.float64) / tau).sum()
    assert left_out / whole <= tail_share(cosines[near], count, tau) + 1e-9


def test_the_error_falls_as_more_are_looked_at() -> None:
    texts, sound = _units(5, 5000, 32), _units(6, 1, 32)
    cosines = texts @ sound[0]
    order = np.argsort(-cosines)
    exact = project(sound, texts, 0.05).points[0]
    errors, bounds = [], []
    for k in (1, 10, 100, 1000, 5000):
        bounded = project_nearest(cosines[order[:k]], texts[order[:k]], 5000, 0.05)
        errors.append(float(np.linalg.norm(bounded.point - exact)))
        bounds.append(bounded.error)
    assert errors[-1] < 1e-5
    assert bounds[-1] == 0
    assert errors[:4] == sorted(errors[:4], reverse=True)
    assert bounds == sorted(bounds, reverse=True)


@pytest.mark.parametrize("tau", [0.002, 0.02, 0.2])
def test_what_is_left_out_of_a_large_memory_weighs_nothing(tau: float) -> None:
    """Both ways of weighing: few rows, and all columns."""
    texts, sounds = _units(7, 20_000, 16), _units(8, 3, 16)
    cosines = sounds.astype(np.float64) @ texts.T.astype(np.float64)
    weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / tau)
    expected = weights @ texts / weights.sum(axis=1, keepdims=True)
    found = project(sounds, laid_out(texts), tau, renormalise=False).points
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_a_low_temperature_is_the_nearest_and_a_high_one_the_mean() -> None:
    texts, sounds = _units(1, 50), _units(2, 3)
    np.testing.assert_allclose(project(sounds, texts, 1e-6).points, nearest(sounds, texts).points, atol=1e-6)
    flat = project(sounds, texts, 1e6, renormalise=False).points
    np.testing.assert_allclose(flat, np.broadcast_to(texts.mean(axis=0), (3, 8)), atol=1e-5)


def test_a_caption_remembered_twice_weighs_twice() -> None:
    texts, sound = _units(3, 10), _units(4, 1)
    twice = np.concatenate([texts, texts[:1]])
    found, _ = _slow(sound[0], twice, 0.1)
    np.testing.assert_allclose(project(sound, twice, 0.1, renormalise=False).points[0], found, atol=1e-5)


@pytest.mark.parametrize("tau", [0.0, -0.01, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(tau: float) -> None:
    with pytest.raises(QueryError, match="a positive temperature"):
        project(_units(0, 1), _units(1, 5), tau)
    with pytest.raises(QueryError, match="a positive temperature"):
        project_nearest(np.ones(1, np.float32), _units(1, 1), 5, tau)


def test_an_empty_memory_says_how_to_fill_it() -> None:
    empty = np.empty((0, 8), np.float32)
    for project_onto in (lambda: project(_units(0, 1), empty, 0.01), lambda: nearest(_units(0, 1), empty)):
        with pytest.raises(QueryError, match="earshot remember"):
            project_onto()
