"""Losses against loops that say the same slowly."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from trainer.losses import cosine_distance, geometry, info_nce, mix_texts, pairs_of, project, soft_contrast


@pytest.fixture
def pairs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return normalize(torch.randn(5, 4), dim=1), normalize(torch.randn(5, 4), dim=1), torch.rand(5)


def test_cosine_distance(pairs):
    a, b, weights = pairs
    each = [1 - sum(x * y for x, y in zip(r, s, strict=True)) for r, s in zip(a.tolist(), b.tolist(), strict=True)]
    assert float(cosine_distance(a, b)) == pytest.approx(sum(each) / 5, abs=1e-6)
    weighted = sum(d * w for d, w in zip(each, weights.tolist(), strict=True)) / float(weights.sum())
    assert float(cosine_distance(a, b, weights)) == pytest.approx(weighted, abs=1e-6)


def test_geometry_is_zero_for_a_turned_space(pairs):
    a, _, _ = pairs
    turn, _ = torch.linalg.qr(torch.randn(4, 4))
    assert float(geometry(a @ turn, a)) == pytest.approx(0, abs=1e-6)


def test_soft_contrast_against_loops(pairs):
    sounds, texts, weights = pairs
    scale, sharpness, total = 7.0, 9.0, 0.0
    for i in range(5):
        wish = [math.exp(sharpness * float(texts[i] @ texts[j])) for j in range(5)]
        forth = [math.exp(scale * float(sounds[i] @ texts[j])) for j in range(5)]
        back = [math.exp(scale * float(sounds[j] @ texts[i])) for j in range(5)]
        for found in (forth, back):
            loss = -sum(w / sum(wish) * math.log(f / sum(found)) for w, f in zip(wish, found, strict=True))
            total += float(weights[i]) * loss / 2
    assert float(soft_contrast(sounds, texts, weights, scale, sharpness)) == pytest.approx(total / float(weights.sum()))


def test_same_texts_are_no_negatives():
    sounds = normalize(torch.randn(2, 4), dim=1)
    same = normalize(torch.ones(2, 4), dim=1)
    one = soft_contrast(sounds, same, torch.ones(2), 20, 20)
    assert float(one) == pytest.approx(_half_uniform(sounds, same), abs=1e-5)


def _half_uniform(sounds: torch.Tensor, texts: torch.Tensor) -> float:
    logits = 20 * sounds @ texts.T
    return float(-(logits.log_softmax(1).mean() + logits.T.log_softmax(1).mean()) / 2)


def test_mixture_of_texts_lies_between(pairs):
    a, b, _ = pairs
    both = torch.stack([a, b], dim=1)
    middle = mix_texts(both, torch.full((5, 2), 0.5))
    assert torch.allclose((middle * a).sum(1), (middle * b).sum(1), atol=1e-6)
    assert torch.allclose(mix_texts(both, torch.tensor([[1.0, 0.0]] * 5)), a)


def test_mixture_of_three_texts_against_loops():
    chance = torch.Generator().manual_seed(0)
    texts = normalize(torch.randn(4, 3, 6, generator=chance), dim=2)
    shares = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.7, 0.0, 0.3], [0.0, 1.0, 0.0]])
    for found, row, weights in zip(mix_texts(texts, shares), texts.tolist(), shares.tolist(), strict=True):
        summed = [sum(w * text[i] for w, text in zip(weights, row, strict=True)) for i in range(6)]
        length = math.sqrt(sum(value * value for value in summed))
        assert found.tolist() == pytest.approx([value / length for value in summed], abs=1e-6)


def test_projection_keeps_directions_inside_the_space():
    basis, _ = torch.linalg.qr(torch.randn(6, 3))
    inside = normalize(torch.randn(4, 3), dim=1)
    assert torch.allclose(project((inside @ basis.T).half(), basis), inside, atol=2e-3)


def slow_info_nce(scores, own, alike):
    """Both directions, row by row: eqs. 3 to 5 with several right answers."""
    total = 0.0
    for table, right, spared in ((scores, own, alike), (scores.T, own.T, alike.T)):
        rows = []
        for i in range(len(table)):
            counted = [j for j in range(table.shape[1]) if not spared[i, j]]
            below = sum(math.exp(table[i, j]) for j in counted)
            wanted = [j for j in range(table.shape[1]) if right[i, j]]
            rows.append(-sum(math.log(math.exp(table[i, j]) / below) for j in wanted) / len(wanted))
        total += sum(rows) / len(rows)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_info_nce_is_the_obvious_sum(seed):
    chance = torch.Generator().manual_seed(seed)
    sounds, texts = (normalize(torch.randn(n, 6, generator=chance), dim=1) for n in (4, 7))
    owner = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    pairs = pairs_of(owner, torch.tensor([1, 2, 3, 1]), torch.tensor([10, 11, 12, 10, 14, 15, 16]))
    found = info_nce(sounds, texts, pairs, 0.07)
    wanted = slow_info_nce((sounds @ texts.T / 0.07).double(), pairs.own, pairs.alike)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_pairs_spare_what_says_the_same():
    owner = torch.tensor([0, 1, 2])
    pairs = pairs_of(owner, torch.tensor([1, 2, 1]), torch.tensor([7, 7, 8]))
    assert pairs.own.tolist() == torch.eye(3, dtype=torch.bool).tolist()
    assert pairs.alike.tolist() == [[False, True, True], [True, False, False], [True, False, False]]
    assert pairs.spared == 4


def test_identical_captions_do_not_push_apart():
    sounds = normalize(torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    texts = sounds[:1].repeat(2, 1)
    pairs = pairs_of(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([5, 5]))
    assert float(info_nce(sounds, texts, pairs, 0.07)) == pytest.approx(0, abs=1e-6)
