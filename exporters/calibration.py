"""Cosine -> relevance: a logistic curve fitted on sounds that nobody has learnt from. Pure numpy, no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Calibration
from engine.types import FloatArray

Floats = NDArray[np.float64]

#: The size of a library in which an absent kind is looked for.
LIBRARY = 200
#: Of the queries for what isn't there, at most so many should get an answer; for that words give up this much recall.
MOST_FALSE, SPARE_RECALL = 0.1, 0.01


@dataclass(frozen=True, slots=True)
class Found:
    """A fitted curve with what its cutoff does: share of wanted kept, share of queries that get a false answer."""

    curve: Calibration
    recall: float
    false_answers: float


def fit_logistic(scores: Floats, wanted: NDArray[np.bool_], rounds: int = 50) -> tuple[float, float]:
    """``(slope, intercept)`` that make ``1 / (1 + exp(-(slope s + intercept)))`` likeliest (Platt 1999, eq. 1).

    ``scores [n]`` and ``wanted [n]``, both kinds present; each kind weighs half, so that relevance doesn't depend on
    how many unwanted pairs were drawn. Newton's method with a small ridge, exact for separable data too.
    """
    weight = np.where(wanted, 0.5 / wanted.sum(), 0.5 / (~wanted).sum())
    centre, width = scores.mean(), max(float(scores.std()), 1e-9)
    x = np.stack([(scores - centre) / width, np.ones_like(scores)], axis=1)
    beta, ridge = np.zeros(2), 1e-4 * np.eye(2)
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -60, 60)))
        gradient = x.T @ (weight * (p - wanted)) + ridge @ beta
        hessian = (x * (weight * p * (1 - p))[:, None]).T @ x + ridge
        beta -= np.clip(np.linalg.solve(hessian, gradient), -2, 2)
    slope = float(beta[0] / width)
    return slope, float(beta[1] - slope * centre)


def calibrate(wanted: Floats, unwanted: Floats, best_absent: Floats, recall: float = 0.8, spare: float = 0.0) -> Found:
    """A curve and its cutoff.

    ``wanted`` and ``unwanted`` are cosines of pairs that belong together or not. ``best_absent`` holds, for queries
    whose kind is absent, the best cosine found: a false answer is one above the cutoff. The cutoff keeps ``recall``
    of the wanted pairs, less as much of ``spare`` as it takes for no more than ``MOST_FALSE`` false answers.
    """
    scores = np.concatenate([wanted, unwanted])
    truth = np.arange(len(scores)) < len(wanted)
    slope, intercept = fit_logistic(scores, truth)
    least, most = np.quantile(wanted, [1 - recall, 1 - recall + spare])
    threshold = float(np.clip(np.quantile(best_absent, 1 - MOST_FALSE), least, most))
    curve = Calibration(slope, intercept, 0.0)
    curve = Calibration(slope, intercept, curve.relevance(threshold))
    return Found(curve, float((wanted >= threshold).mean()), float((best_absent >= threshold).mean()))


def fit_curve(
    scores: FloatArray, wanted: NDArray[np.bool_], unwanted: NDArray[np.bool_], seed: int, first_answer: bool
) -> Found:
    """One curve from scores ``[queries, clips]``: a query is absent where only unwanted clips are in the library.

    With ``first_answer`` relevance is the chance that the first answer is right, were half of all queries for kinds
    that are there; without, that a sound of the two kinds, wanted and unwanted, is a wanted one.
    Raises ``ValueError`` where nothing is wanted or nothing unwanted.
    """
    chance = np.random.default_rng(seed)
    exact = scores.astype(np.float64)
    absent = []
    for query, others in zip(exact, unwanted, strict=True):
        library = chance.permutation(np.flatnonzero(others))[:LIBRARY]
        if len(library):
            absent.append(query[library].max())
    if not (wanted.any() and unwanted.any() and absent):
        raise ValueError("found no pairs of one of the kinds, expected some that belong together and some that don't")
    # Each query's wanted clips count once together: twenty takes of one footstep are one finding.
    best = np.array([row[mine].max() for row, mine in zip(exact, wanted, strict=True) if mine.any()])
    absent_best = np.array(absent)
    if first_answer:
        return calibrate(best, absent_best, absent_best, spare=SPARE_RECALL)
    return calibrate(best, exact[unwanted], absent_best)
