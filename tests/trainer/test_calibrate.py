"""The logistic fit against plain gradient descent, and what the cutoff promises."""

from __future__ import annotations

import numpy as np
import pytest

from exporters.calibration import calibrate, fit_logistic
from trainer.calibrate import Held, calibrations


def slow_fit(scores: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Gradient descent on the balanced log loss."""
    slope = intercept = 0.0
    for _ in range(60_000):
        p = 1 / (1 + np.exp(-(slope * scores + intercept)))
        error = np.where(wanted, 0.5 / wanted.sum(), 0.5 / (~wanted).sum()) * (p - wanted)
        slope -= 20 * float((error * scores).sum())
        intercept -= 5 * float(error.sum())
    return slope, intercept


def test_fit_against_gradient_descent():
    chance = np.random.default_rng(0)
    scores = np.concatenate([chance.normal(0.5, 0.15, 60), chance.normal(0.25, 0.15, 300)])
    wanted = np.arange(360) < 60
    assert fit_logistic(scores, wanted) == pytest.approx(slow_fit(scores, wanted), rel=0.02)


def test_separable_scores_stay_finite():
    scores, wanted = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True])
    slope, intercept = fit_logistic(scores, wanted)
    assert np.isfinite([slope, intercept]).all()
    assert slope > 0


def test_the_cutoff_keeps_the_recall_it_was_asked_for():
    chance = np.random.default_rng(1)
    wanted, unwanted = chance.normal(0.5, 0.1, 500), chance.normal(0.1, 0.1, 5000)
    found = calibrate(wanted, unwanted, chance.normal(0.3, 0.05, 400), recall=0.8)
    assert found.recall == pytest.approx(0.8, abs=0.01)
    assert found.false_answers < 0.05
    kept = np.array([found.curve.relevance(score) >= found.curve.cutoff for score in wanted])
    assert kept.mean() == pytest.approx(0.8, abs=0.01)
    assert found.curve.relevance(0.6) > 0.9 > 0.1 > found.curve.relevance(0.05)


def test_a_little_recall_is_given_for_few_false_answers():
    wanted, unwanted = np.linspace(0, 1, 10_001), np.zeros(100)
    # The cutoff of recall 0.8 is 0.2, that of 0.79 is 0.21.
    for tenth_best, cutoff in ((0.1, 0.2), (0.206, 0.206), (0.9, 0.21)):
        absent = np.append(np.zeros(900), np.linspace(tenth_best, 1, 101))
        found = calibrate(wanted, unwanted, absent, spare=0.01)
        assert found.recall == pytest.approx(1 - cutoff, abs=1e-3)
        assert found.false_answers == pytest.approx((absent >= cutoff).mean(), abs=2e-3)


def held(seed: int, sources: int = 20) -> Held:
    """Eighty clips of eight kinds, two windows each: a kind's windows and its phrases lie near one direction."""
    chance = np.random.default_rng(seed)
    kinds = np.repeat(np.eye(8), 10, axis=0)

    def near(rows: np.ndarray, noise: float) -> np.ndarray:
        vectors = rows + chance.normal(0, noise, rows.shape)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    windows = [near(row[None].repeat(2, axis=0), 0.15) for row in kinds]
    return Held(
        windows=windows,
        asked=[w[:1] for w in windows],
        alike=kinds @ kinds.T,
        sources=[f"author {i % sources}" for i in range(80)],
        phrases={"eng": near(np.eye(8), 0.1), "fra": near(np.eye(8), 0.15), "jpn": near(np.eye(8), 0.3)},
        meant=np.eye(8) @ kinds.T,
        hears=np.eye(8) @ kinds.T,
    )


def test_every_kind_of_query_gets_its_curve():
    found = calibrations(held(0))
    assert set(found) == {"text", "text-cjk", "audio"}
    for fit in found.values():
        assert fit.recall >= 0.7
        assert fit.false_answers <= 0.2
        assert fit.curve.relevance(0.95) > 0.9 > 0.1 > fit.curve.relevance(0.1)
    assert calibrations(held(0)) == found


def test_a_sound_does_not_prove_itself():
    """With one source there is nothing of another source to find: no audio curve can be fitted."""
    with pytest.raises(ValueError, match="no pairs"):
        calibrations(held(1, sources=1))
