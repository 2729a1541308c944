"""Every statistic against a slow, obvious version and cases worked by hand; ties, drawings and pairs included."""

from __future__ import annotations

import numpy as np
import pytest

from trainer import scores as scores_module
from trainer.metrics import average_precision_at, first_ranks
from trainer.scores import ClassPrecision, Heard, Mean, Median, Ranks, difference, drawings, measured


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray, Heard]:
    """Texts on a coarse grid, so that ties are frequent; clips of one to four windows, one without a text."""
    chance = np.random.default_rng(7)
    heard = [unit(chance.integers(-1, 2, (windows, 4)) + 0.5) for windows in chance.integers(1, 5, 12)]
    clips = np.sort(chance.integers(0, 11, 30))
    return unit(chance.integers(-1, 2, (30, 4)) + 0.5), clips, Heard.of(heard)


def slow_scores(texts: np.ndarray, heard: Heard) -> np.ndarray:
    ends = [*heard.starts[1:], len(heard.vectors)]
    parts = [heard.vectors[first:last] for first, last in zip(heard.starts, ends, strict=True)]
    return np.array([[round(max(float(np.dot(text, w)) for w in part), 6) for part in parts] for text in texts])


def test_a_clip_is_as_near_as_its_best_window(case):
    texts, _, heard = case
    assert heard.scores(texts) == pytest.approx(slow_scores(texts, heard), abs=2e-6)
    part = heard.part(3, 7)
    assert part.scores(texts) == pytest.approx(heard.scores(texts)[:, 3:7])
    ends = [*heard.starts[1:], len(heard.vectors)]
    means = [heard.vectors[a:b].astype(float).mean(axis=0) for a, b in zip(heard.starts, ends, strict=True)]
    assert heard.pooled() == pytest.approx(np.array([m / np.linalg.norm(m) for m in means]), abs=1e-6)


@pytest.mark.parametrize("at_once", [1, 200, 2**24])
def test_ranks_by_counting(case, at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scores_module, "_MOST_COSINES", at_once)
    texts, clips, heard = case
    ranks, scores = Ranks.of(texts, clips, heard), heard.scores(texts)
    for text, clip in enumerate(clips):
        own = scores[text, clip]
        rivals = [other for other in range(len(heard)) if other != clip and scores[text, other] >= own]
        assert ranks.to_audio[text] == 1 + len(rivals)
        rivals = [other for other in range(len(texts)) if clips[other] != clip and scores[other, clip] >= own]
        assert ranks.to_text[text] == 1 + len(rivals)


def test_both_conventions_by_ranking_everything(case):
    texts, clips, heard = case
    found = Ranks.of(texts, clips, heard).measures()
    scores, asked = heard.scores(texts), np.unique(clips)
    one = np.ones((1, len(heard)), np.int32)
    value = {key: statistic.under(one)[0] for key, statistic in found.items()}

    to_audio = first_ranks(scores, clips[:, None] == np.arange(len(heard)))
    best = np.array([to_audio[clips == clip].min() for clip in asked])
    to_text = first_ranks(scores.T[asked], asked[:, None] == clips)  # the first of its own
    for k in (1, 5, 10):
        assert value["text-to-audio", "mean", f"R@{k}"] == pytest.approx((to_audio <= k).mean())
        assert value["text-to-audio", "any", f"R@{k}"] == pytest.approx((best <= k).mean())
        assert value["audio-to-text", "any", f"R@{k}"] == pytest.approx((to_text <= k).mean())
    assert value["text-to-audio", "mean", "median rank"] == np.median(to_audio)
    assert value["text-to-audio", "any", "median rank"] == np.median(best)
    assert value["audio-to-text", "any", "median rank"] == np.median(to_text)
    precision = average_precision_at(scores.T[asked], asked[:, None] == clips, 10)
    assert value["audio-to-text", "any", "mAP@10"] == pytest.approx(precision.mean())
    precision = average_precision_at(scores, clips[:, None] == np.arange(len(heard)), 10)
    assert value["text-to-audio", "mean", "mAP@10"] == pytest.approx(precision.mean())
    assert found["text-to-audio", "mean", "R@1"].count == len(texts)
    assert found["text-to-audio", "any", "R@1"].count == len(asked)


def test_conventions_by_hand():
    # Clip 0 is found by its second caption only; clip 1 by its only one; the first caption finds clip 1.
    heard = Heard.of([unit(np.array([[1.0, 0.0]])), unit(np.array([[0.0, 1.0]]))])
    texts = unit(np.array([[0.6, 0.8], [1.0, 0.1], [0.0, 1.0]]))
    value = {
        k: s.under(np.ones((1, 2), int))[0] for k, s in Ranks.of(texts, np.array([0, 0, 1]), heard).measures().items()
    }
    assert value["text-to-audio", "mean", "R@1"] == pytest.approx(2 / 3)
    assert value["text-to-audio", "any", "R@1"] == 1.0
    assert value["audio-to-text", "any", "R@1"] == 1.0
    assert value["text-to-audio", "mean", "mAP@10"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert value["audio-to-text", "any", "mAP@10"] == 1.0  # both of clip 0 come first


def test_one_caption_a_clip_needs_no_convention():
    heard = Heard.of([unit(np.eye(3)[[n]]) for n in range(3)])
    found = Ranks.of(unit(np.eye(3)), np.arange(3), heard).measures()
    assert {convention for _, convention, _ in found} == {""}
    assert all(s.under(np.ones((1, 3), int))[0] == 1 for s in found.values())


def test_a_collapsed_model_wins_nothing():
    same = unit(np.ones((4, 3)))
    value = Ranks.of(same, np.arange(4), Heard.of([same[:1]] * 4)).measures()
    assert value["text-to-audio", "", "R@1"].under(np.ones((1, 4), int))[0] == 0
    assert value["text-to-audio", "", "median rank"].under(np.ones((1, 4), int))[0] == 4
    assert value["audio-to-text", "", "R@1"].under(np.ones((1, 4), int))[0] == 0


def slow_class_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    found = []
    for row, hits in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda n: (-row[n], hits[n]))
        at = [rank for rank, n in enumerate(order, 1) if hits[n]]
        if at:
            found.append(sum(number / rank for number, rank in enumerate(at, 1)) / len(at))
    return float(np.mean(found))


def test_statistics_of_a_drawing_are_those_of_the_clips_drawn():
    chance = np.random.default_rng(2)
    clips = np.sort(chance.integers(0, 9, 25))
    values = chance.integers(1, 8, 25).astype(float)
    weights = drawings(9)[:40]
    scores, relevant = chance.random((3, 9)).round(1), chance.random((3, 9)) < 0.4
    tagged = ClassPrecision(scores, relevant, np.arange(9))
    assert weights.sum(axis=1).tolist() == [9] * 40
    means, medians, precisions = (s.under(weights) for s in (Mean(values, clips), Median(values, clips), tagged))
    for row, mean, median, precision in zip(weights, means, medians, precisions, strict=True):
        drawn = np.repeat(np.arange(9), row)
        pool = np.concatenate([values[clips == clip] for clip in drawn])
        assert mean == pytest.approx(pool.mean())
        assert median == pytest.approx(np.median(pool))
        assert precision == pytest.approx(slow_class_precision(scores[:, drawn], relevant[:, drawn]))


def test_intervals_cover_about_as_often_as_they_say_though_captions_of_a_clip_agree():
    chance = np.random.default_rng(4)
    clips, covered = np.repeat(np.arange(60), 5), 0
    weights = drawings(60)
    for _ in range(120):
        values = np.repeat(chance.random(60) < 0.4, 5).astype(float)  # five captions, one answer
        found = measured(Mean(values, clips), weights)
        covered += found.low <= 0.4 <= found.high
    assert covered >= 105  # 95 % of 120 is 114; resampling captions would give about 75


def test_pairs_see_what_two_intervals_do_not():
    chance = np.random.default_rng(5)
    clips, weights = np.arange(200), drawings(200)
    ours = (chance.random(200) < 0.5).astype(float)
    theirs = np.where(np.arange(200) % 20 == 0, 1.0, ours)  # a little better, never worse
    one, other = (measured(Mean(values, clips), weights) for values in (ours, theirs))
    found = difference(Mean(ours, clips), Mean(theirs, clips), weights)
    assert one.high > other.low  # side by side nobody could tell
    assert found.is_sure
    assert found.value == pytest.approx((theirs - ours).mean())
    same = difference(Mean(ours, clips), Mean(ours, clips), weights)
    assert (same.value, same.low, same.high, same.is_sure) == (0, 0, 0, False)
