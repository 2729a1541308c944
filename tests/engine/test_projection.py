"""Projection against the formula written out, and its bound against what the nearest really leave out."""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BundleError, QueryError
from engine.projection import GRAPH, laid_out, nearest, project, project_nearest, tail_share
from engine.session import FillingSession
from engine.types import FloatArray

TAUS = st.floats(1e-3, 2.0)
SEEDS = st.integers(0, 10_000)


def _units(seed: int, n: int, dim: int = 8) -> FloatArray:
    """Vectors of length one, but for float16's rounding: so captions are laid out."""
    found = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found.astype(np.float16).astype(np.float32)


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
@pytest.mark.parametrize("sounds", [1, 3, 20])
def test_a_large_memory_is_weighed_block_by_block(monkeypatch: pytest.MonkeyPatch, tau: float, sounds: int) -> None:
    """Many blocks, the last one short; the largest cosine comes in any of them."""
    monkeypatch.setattr("engine.projection.BLOCK", 16 * 250)
    texts, heard = _units(7, 20_010, 16), _units(8, sounds, 16)
    cosines = heard.astype(np.float64) @ texts.T.astype(np.float64)
    weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / tau)
    weights /= weights.sum(axis=1, keepdims=True)
    laid = laid_out(texts)
    assert laid.blocks.shape == (81, 17, 248)
    found = project(heard, laid, tau, renormalise=False)
    np.testing.assert_allclose(found.points, weights @ texts, atol=2e-5)
    order = np.argsort(-cosines, axis=1)[:, :5]
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(found.weights, np.take_along_axis(weights, order, 1), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(laid.rows(found.rows[0]), texts[found.rows[0]])


@pytest.mark.parametrize("cores", [[0], [0, 1], [0, 0, 0], [10**6] * 40])
def test_however_many_cores_share_the_blocks(monkeypatch: pytest.MonkeyPatch, cores: list[int]) -> None:
    """Also more than there are blocks, and cores that aren't there."""
    monkeypatch.setattr("engine.projection.BLOCK", 16 * 250)
    monkeypatch.setattr("engine.session.cores_allowed", lambda: cores)
    graph = FillingSession(GRAPH)
    monkeypatch.setattr("engine.projection._graph", lambda: graph)
    texts, heard = _units(7, 2_010, 16), _units(8, 3, 16)
    found = project(heard, texts, 0.02, renormalise=False)
    for number, sound in enumerate(heard):
        np.testing.assert_allclose(found.points[number], _slow(sound, texts, 0.02)[0], atol=1e-5)


def test_two_threads_may_project_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.projection.BLOCK", 16 * 50)
    laid, heard = laid_out(_units(7, 2_010, 16)), _units(8, 40, 16)
    alone = [project(sound[None], laid, 0.02).points[0] for sound in heard]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda sound: project(sound[None], laid, 0.02).points[0], heard))
    np.testing.assert_array_equal(together, alone)


def test_a_graph_that_takes_something_else_is_named() -> None:
    blocks, into = np.zeros((3, 9, 5), np.float16), np.zeros((3, 2, 5), np.float32)
    sounds, zeros = np.zeros((2, 7), np.float32), np.zeros((2, 1), np.float32)
    with pytest.raises(BundleError, match=r"a graph that fails on sounds \[2, 7\].*captions \[9, 5\]"):
        FillingSession(GRAPH).fill({"sounds": sounds, "zeros": zeros}, {"captions": blocks}, {"logits": into})


def test_what_is_no_vector_is_refused() -> None:
    texts, sounds = _units(1, 20), _units(2, 3)
    for wrong in (sounds[0], sounds[:, :7]):
        with pytest.raises(QueryError, match=r"expected \[n, 8\]"):
            project(wrong, texts, 0.02)
    for value in (np.nan, np.inf):
        texts[3, 2] = value
        with pytest.raises(QueryError, match="NaN or infinity"):
            project(sounds, texts, 0.02)
    assert project(sounds.astype(np.float64), _units(1, 20), 0.02).points.dtype == np.float32


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_projects_as_its_parent_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose threads have worked already: there are blocks for several."""
    monkeypatch.setattr("engine.projection.BLOCK", 8 * 10)
    graph = FillingSession(GRAPH)
    monkeypatch.setattr("engine.projection._graph", lambda: graph)
    texts, heard = _units(7, 200), _units(8, 3)
    mine = project(heard, texts, 0.02).points
    child = get_context("fork").Process(target=_same_or_fail, args=(heard, texts, mine))
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0


def _same_or_fail(heard: FloatArray, texts: FloatArray, mine: FloatArray) -> None:
    np.testing.assert_allclose(project(heard, texts, 0.02).points, mine, atol=1e-6)


def test_halves_move_a_point_by_little() -> None:
    """In as many numbers as the starter's vectors have, at its temperature."""
    texts = np.random.default_rng(0).standard_normal((2_000, 256)).astype(np.float32)
    texts[:, 0] += 20  # as near to each other as captions are
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    heard = texts[:20] + 0.02 * _units(1, 20, 256)
    heard /= np.linalg.norm(heard, axis=1, keepdims=True)
    found = project(heard, texts, 0.02, renormalise=False)
    for sound, point in zip(heard, found.points, strict=True):
        assert np.linalg.norm(point - _slow(sound, texts, 0.02)[0]) < 5e-4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("far", [-1, -0.9, 0, 0.9])
def test_captions_far_from_a_sound_weigh_as_well(far: float) -> None:
    """Also where none is near enough for the first guess at where weights are one."""
    texts, sound = _units(2, 30), np.zeros((1, 8), np.float32)
    sound[0, 0] = 1
    texts[:, 0] = 0
    texts *= np.sqrt(1 - far**2) / np.linalg.norm(texts, axis=1, keepdims=True)
    texts[:, 0] = far + 1e-3 * np.arange(30) * (1 - abs(far))
    texts = texts.astype(np.float16).astype(np.float32)
    for tau in (0.001, 0.01, 0.02):
        found = project(sound, texts, tau, renormalise=False)
        point, weights = _slow(sound[0], texts, tau)
        np.testing.assert_allclose(found.points[0], point, atol=1e-4)
        np.testing.assert_allclose(found.weights[0], sorted(weights, reverse=True)[:5], atol=1e-4)


def test_of_equal_captions_the_first_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heaviest of all blocks in one, equal ones across several."""
    monkeypatch.setattr("engine.projection.BLOCK", 8 * 10)
    sound, texts = _units(1, 1)[0], _units(2, 100)
    texts[[77, 33, 34, 91, 12, 55]] = sound
    found = project(sound[None], texts, 0.01)
    assert found.rows[0].tolist() == [12, 33, 34, 55, 77]
    texts[40:46] = (texts[40:46] + 50 * sound) / np.linalg.norm(texts[40:46] + 50 * sound, axis=1, keepdims=True)
    texts[[77, 33, 34, 91, 12, 55]] = -sound
    assert set(project(sound[None], texts, 0.01).rows[0]) < set(range(40, 46))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tau", [1e-320, 1e-300, 1e300])
def test_any_positive_temperature_is_one(tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where cosines are so far apart, in units of it, that no first guess at where weights are one holds."""
    monkeypatch.setattr("engine.projection.BLOCK", 8 * 10)
    texts, sounds = _units(1, 50), _units(2, 3)
    near = project_nearest(texts @ sounds[0], texts, 50, tau, renormalise=False)
    np.testing.assert_allclose(near.point, project(sounds, texts, tau, renormalise=False).points[0], atol=1e-5)
    expected = nearest(sounds, texts).points if tau < 1 else np.broadcast_to(texts.mean(axis=0), (3, 8))
    np.testing.assert_allclose(project(sounds, texts, tau, renormalise=False).points, expected, atol=1e-5)


def test_a_low_temperature_is_the_nearest_and_a_high_one_the_mean() -> None:
    texts, sounds = _units(1, 50), _units(2, 3)
    sharp = project(sounds, texts, 1e-6, renormalise=False).points
    np.testing.assert_allclose(sharp, nearest(sounds, texts).points, atol=1e-6)
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
