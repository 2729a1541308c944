"""Noise, shift and adapter against slow versions of what the papers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.projection import project
from trainer.bridging import (
    ASKED,
    Bridge,
    adapter,
    as_asked,
    deviation,
    practised,
    shift,
    sigma_of_captions,
    sigma_of_pairs,
)


def _units(chance: np.random.Generator, n: int, dim: int = 12) -> np.ndarray:
    found = chance.standard_normal((n, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_sigma_of_pairs_is_the_mean_of_the_largest_differences() -> None:
    chance = np.random.default_rng(0)
    sounds, texts = _units(chance, 30), _units(chance, 30)
    slow = sum(max(abs(float(sounds[n, i] - texts[n, i])) for i in range(12)) for n in range(30))
    assert sigma_of_pairs(sounds, texts) == pytest.approx(slow / 30, rel=1e-6)


def test_sigma_of_captions_looks_at_every_pair_of_a_clip() -> None:
    a, b, c = np.zeros(3), np.array([0, 0.5, 0]), np.array([-0.25, 0, 0])
    groups = [np.stack([a, b, c]), np.stack([a, c]), a[None]]
    assert sigma_of_captions(groups) == pytest.approx((0.5 + 0.25 + 0.5 + 0.25) / 4)
    with pytest.raises(ValueError, match="no clip with two captions"):
        sigma_of_captions([a[None]])


def test_the_two_readings_of_an_estimate() -> None:
    assert deviation(0.013, "std") == 0.013
    assert deviation(0.013, "variance") == pytest.approx(0.1140175)


def test_shift_moves_the_centre_of_the_texts_to_that_of_the_sounds() -> None:
    chance = np.random.default_rng(1)
    sounds, texts = _units(chance, 40), _units(chance, 25)
    bridge = Bridge(offset=shift(sounds, texts), renormalise=False)
    moved = bridge(torch.from_numpy(texts), chance).numpy()
    np.testing.assert_allclose(moved.mean(axis=0), sounds.mean(axis=0), atol=1e-6)


def test_adapter_finds_a_linear_map_and_is_the_minimum() -> None:
    chance = np.random.default_rng(2)
    texts = _units(chance, 400)
    true, offset = chance.standard_normal((12, 12)), chance.standard_normal(12)
    matrix, found = adapter((texts @ true + offset).astype(np.float32), texts, ridge=0.0)
    np.testing.assert_allclose(matrix, true, atol=1e-4)
    np.testing.assert_allclose(found, offset, atol=1e-4)
    sounds = (texts @ true + offset + chance.standard_normal((400, 12))).astype(np.float32)
    matrix, found = adapter(sounds, texts, ridge=0.0)
    best = float(((texts @ matrix + found - sounds) ** 2).mean())
    for _ in range(20):
        other = matrix + 0.01 * chance.standard_normal(matrix.shape)
        assert float(((texts @ other + found - sounds) ** 2).mean()) > best


def test_adapter_of_fewer_pairs_than_directions_stays_small() -> None:
    chance = np.random.default_rng(3)
    matrix, _ = adapter(_units(chance, 6), _units(chance, 6))
    assert np.abs(matrix).max() < 2


def test_noise_has_its_deviation_and_comes_back_with_the_same_chance() -> None:
    texts = torch.from_numpy(_units(np.random.default_rng(4), 2000))
    bridge = Bridge(sigma=0.1, renormalise=False)
    noise = (bridge(texts, np.random.default_rng(5)) - texts).numpy()
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert abs(noise.mean()) < 0.003
    assert torch.equal(bridge(texts, np.random.default_rng(5)), bridge(texts, np.random.default_rng(5)))
    assert torch.equal(bridge(texts, None), texts)


def test_a_bridged_vector_has_the_length_of_a_sounds() -> None:
    texts = torch.from_numpy(_units(np.random.default_rng(6), 8))
    moved = Bridge(sigma=0.3)(texts, np.random.default_rng(7))
    np.testing.assert_allclose(moved.norm(dim=1), 1, atol=1e-6)


def test_texts_as_asked_are_projected_without_what_says_the_same() -> None:
    """Moved by one gap they are what the engine makes of them, upon the memory but for themselves."""
    chance = np.random.default_rng(3)
    memory, gap = _units(chance, 30), 0.3 * _units(chance, 1)
    texts = np.concatenate([memory[[4, 9]], _units(chance, 2)])
    found = as_asked(texts, gap, memory, 0.05, chance)
    for number, text in enumerate(texts):
        others = np.delete(memory, [4, 9][number], axis=0) if number < 2 else memory
        moved = (text + gap[0]) / np.linalg.norm(text + gap[0])
        np.testing.assert_allclose(found[number], project(moved[None], others, 0.05).points[0], atol=1e-3)
    np.testing.assert_allclose(as_asked(texts[:1], gap, memory[[4]], 0.05, chance), memory[[4]], atol=1e-5)


def test_texts_are_practised_as_they_are_and_as_asked() -> None:
    chance = np.random.default_rng(5)
    memory, gaps, vectors = _units(chance, 20), 0.3 * _units(chance, 3), _units(chance, 4)
    texts, found = practised(list("abcd"), vectors, gaps, memory, 0.1)
    assert texts == list("abcd") * (1 + ASKED)
    np.testing.assert_array_equal(found[:4], vectors)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    again = practised(list("abcd"), vectors, gaps, memory, 0.1)[1]
    np.testing.assert_array_equal(found, again)
    assert len(np.unique(found.round(4), axis=0)) > 8  # by other gaps each time


def test_texts_as_asked_lie_where_the_gaps_of_the_pairs_put_them() -> None:
    chance = np.random.default_rng(4)
    memory, gaps, texts = _units(chance, 20), 0.3 * _units(chance, 3), _units(chance, 600)
    found = as_asked(texts, gaps, memory, 0.1, chance)
    moved = texts[:, None] + gaps
    points = project((moved / np.linalg.norm(moved, axis=2, keepdims=True)).reshape(-1, 12), memory, 0.1).points
    apart = np.linalg.norm(points.reshape(600, 3, 12) - found[:, None], axis=2)
    assert apart.min(axis=1).max() < 5e-3  # the engine has captions as float16
    assert set(np.unique(apart.argmin(axis=1))) == {0, 1, 2}
