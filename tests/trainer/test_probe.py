"""The linear probe: what a line can tell it learns, what it can't it does not, and nothing leaks from what is asked."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.examples import Example
from trainer.metrics import choices
from trainer.probe import ProbeError, folds, probed
from trainer.scores import ClassPrecision


def kinds(seed: int, count: int, spread: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Vectors ``[n, 6]`` around four centres, and which kind each is ``[4, n]``."""
    truth = np.arange(count) % 4
    noise = np.random.default_rng(seed).standard_normal((count, 6)) * spread
    return (np.eye(6)[truth] + noise).astype(np.float32), np.arange(4)[:, None] == truth


def both(learnt: int, asked: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.arange(asked, asked + learnt), np.arange(asked))]


def test_it_tells_what_a_line_can_tell():
    vectors, relevant = kinds(0, 240)
    scores = probed(vectors, relevant, both(120, 120))
    truth = relevant[:, :120].argmax(axis=0)
    nearest = np.linalg.norm(vectors[:120, None] - np.eye(6)[None, :4], axis=2).argmin(axis=1)  # the best there is
    assert choices(scores[:, :120].T, truth).mean() >= (nearest == truth).mean() - 0.03
    assert np.isnan(scores[:, 120:]).all()


def test_names_without_meaning_are_learnt_by_heart_but_not_told():
    vectors, relevant = kinds(1, 400)
    shuffled = relevant[:, np.random.default_rng(0).permutation(400)]
    scores = probed(vectors, shuffled, both(200, 200))
    assert choices(scores[:, :200].T, shuffled[:, :200].argmax(axis=0)).mean() < 0.4  # chance is 0.25


def test_what_is_asked_does_not_change_what_is_learnt():
    vectors, relevant = kinds(2, 120)
    one = probed(vectors, relevant, both(80, 40))
    others = vectors.copy()
    others[1:40] *= 5
    assert probed(others, relevant, both(80, 40))[:, 0] == pytest.approx(one[:, 0])


def test_several_kinds_a_clip_are_learnt_each_by_itself():
    vectors, relevant = kinds(3, 200, spread=0.2)
    relevant = np.vstack([relevant, relevant[0] | relevant[1]])
    scores = probed(vectors, relevant, both(100, 100))
    precision = ClassPrecision(scores[:, :100], relevant[:, :100], np.arange(100))
    assert precision.under(np.ones((1, 100), int))[0] > 0.98


def test_a_kind_that_nobody_taught_is_never_the_answer():
    vectors, relevant = kinds(4, 120)
    learnt = np.flatnonzero(~relevant[3, 60:]) + 60
    scores = probed(vectors, relevant, [(learnt, np.arange(60))])
    assert np.isfinite(scores[:, :60]).all()
    assert not (scores[:, :60].argmax(axis=0) == 3).any()


def test_folds():
    there = [Example(str(n), None, tags=("a",), split=f"fold{n % 3}") for n in range(7)]  # type: ignore[arg-type]
    [(learnt, asked)] = folds(there[:3], there[3:])
    assert (learnt.tolist(), asked.tolist()) == ([3, 4, 5, 6], [0, 1, 2])
    rounds = folds(there, [])
    assert [asked.tolist() for _, asked in rounds] == [[0, 3, 6], [1, 4], [2, 5]]
    assert all(sorted([*learnt, *asked]) == list(range(7)) for learnt, asked in rounds)
    with pytest.raises(ProbeError, match="one split only, fold0"):
        folds(there[::3], [])


def test_one_kind_is_none():
    vectors, relevant = kinds(5, 40)
    with pytest.raises(ProbeError, match="fewer than two kinds"):
        probed(vectors, relevant[:1], both(20, 20))
