"""Retrieval measures on a matrix of scores. Pure numpy, no torch: the verdict must not depend on how it was trained.

Throughout, ``scores [queries, items]`` are higher for better and ``relevant [queries, items]`` are booleans.
Ties go against us: among equal scores the irrelevant items come first, so a collapsed model can't win by luck.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Relevance = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]


def ranked(scores: Scores, relevant: Relevance) -> Relevance:
    """Relevance ``[queries, items]`` in the order of falling score. Raises ``ValueError`` if shapes differ."""
    return np.asarray(np.take_along_axis(relevant, ranked_order(scores, relevant), axis=1), np.bool_)


def ranked_order(scores: Scores, relevant: Relevance) -> NDArray[np.intp]:
    """The items' numbers ``[queries, items]`` by falling score. Raises ``ValueError`` if shapes differ."""
    if scores.shape != relevant.shape:
        raise ValueError(f"found scores {scores.shape} and relevance {relevant.shape}, expected the same shape")
    order: NDArray[np.intp] = np.lexsort((relevant, -scores), axis=1)
    return order


def hits_at(scores: Scores, relevant: Relevance, k: int) -> Floats:
    """Per query 1 where a relevant item is among the first ``k``, else 0: R@k of retrieval papers; P@1 for k = 1."""
    return np.asarray(ranked(scores, relevant)[:, :k].any(axis=1), np.float64)


def average_precision_at(scores: Scores, relevant: Relevance, k: int) -> Floats:
    """Per query AP@k: the mean, over the relevant items that could be among the first k, of precision where found.

    ``sum_{i<=k} precision@i * relevant_i / min(k, relevant in all)``; 0 for a query without relevant items.
    """
    found = ranked(scores, relevant)[:, :k]
    precision = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    possible = np.minimum(k, relevant.sum(axis=1))
    return np.asarray((precision * found).sum(axis=1) / np.maximum(possible, 1), np.float64)


def first_ranks(scores: Scores, relevant: Relevance) -> Floats:
    """Per query the rank, from 1, of the first relevant item; infinity where there is none."""
    order = ranked(scores, relevant)
    return np.asarray(np.where(order.any(axis=1), order.argmax(axis=1) + 1.0, np.inf), np.float64)


def choices(scores: Scores, truth: NDArray[np.integer]) -> Floats:
    """Zero-shot classification: per row 1 where class ``truth`` has strictly the highest of ``scores``, else 0.

    ``scores``: ``[items, classes]``; a tie for first place is a miss.
    """
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    return np.asarray((scores >= own).sum(axis=1) == 1, np.float64)


def bootstrap(
    values: Floats, statistic: Callable[[Floats], float] = np.mean, rounds: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of ``values [n]`` (Efron & Tibshirani 1993, section 13.3)."""
    chance = np.random.default_rng(seed)
    drawn = chance.integers(len(values), size=(rounds, len(values)))
    low, high = np.percentile([statistic(values[rows]) for rows in drawn], [2.5, 97.5])
    return float(low), float(high)
