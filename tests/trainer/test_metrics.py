"""Every measure against a slow, obvious version and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.metrics import average_precision_at, bootstrap, choices, first_ranks, hits_at, ranked


def slow_order(scores: list[float], relevant: list[bool]) -> list[bool]:
    """Best score first; among equals the irrelevant first."""
    return [r for _, r in sorted(zip(scores, relevant, strict=True), key=lambda pair: (-pair[0], pair[1]))]


def slow_average_precision(order: list[bool], k: int) -> float:
    total, seen = 0.0, 0
    for rank, hit in enumerate(order[:k], start=1):
        if hit:
            seen += 1
            total += seen / rank
    return total / max(1, min(k, sum(order)))


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(3)
    # Scores rounded to one digit, so that ties are frequent.
    return chance.random((40, 30)).round(1), chance.random((40, 30)) < 0.15


def test_against_slow_versions(case):
    scores, relevant = case
    orders = [slow_order(list(s), list(r)) for s, r in zip(scores, relevant, strict=True)]
    assert ranked(scores, relevant).tolist() == orders
    for k in (1, 5, 10):
        assert hits_at(scores, relevant, k).tolist() == [float(any(o[:k])) for o in orders]
        slow = [slow_average_precision(o, k) for o in orders]
        assert average_precision_at(scores, relevant, k) == pytest.approx(slow)
    slow_ranks = [o.index(True) + 1 if any(o) else np.inf for o in orders]
    assert first_ranks(scores, relevant).tolist() == slow_ranks


def test_average_precision_by_hand():
    # Relevant items at ranks 1 and 3 of three relevant in all: (1/1 + 2/3) / 3 within the first three.
    scores, relevant = np.array([[0.9, 0.8, 0.7, 0.1]]), np.array([[True, False, True, True]])
    assert average_precision_at(scores, relevant, 3)[0] == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision_at(scores, relevant, 10)[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_a_collapsed_model_wins_nothing():
    scores = np.zeros((3, 4))
    relevant = np.eye(3, 4, dtype=bool)
    assert hits_at(scores, relevant, 1).sum() == 0
    assert first_ranks(scores, relevant).tolist() == [4, 4, 4]
    assert choices(scores, np.array([0, 1, 2])).sum() == 0


def test_choices_by_hand():
    scores = np.array([[0.2, 0.9, 0.1], [0.5, 0.5, 0.1], [0.3, 0.2, 0.7]])
    assert choices(scores, np.array([1, 0, 1])).tolist() == [1.0, 0.0, 0.0]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="same shape"):
        ranked(np.zeros((2, 3)), np.zeros((3, 2), bool))


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    chance = np.random.default_rng(1)
    covered = 0
    for trial in range(120):
        low, high = bootstrap((chance.random(60) < 0.6).astype(float), rounds=300, seed=trial)
        covered += low <= 0.6 <= high
    assert covered >= 105  # 95 % of 120 is 114


def test_bootstrap_is_the_same_every_time():
    values = np.arange(10.0)
    assert bootstrap(values) == bootstrap(values)
    low, high = bootstrap(values, np.median)
    assert 1 <= low <= 4.5 <= high <= 8
