"""Losses against loops that say the same slowly."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from trainer.losses import cosine_distance, geometry, mix_texts, project, soft_contrast


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
    middle = mix_texts(a, b, torch.full((5,), 0.5))
    assert torch.allclose((middle * a).sum(1), (middle * b).sum(1), atol=1e-6)
    assert torch.allclose(mix_texts(a, b, torch.ones(5)), a)


def test_projection_keeps_directions_inside_the_space():
    basis, _ = torch.linalg.qr(torch.randn(6, 3))
    inside = normalize(torch.randn(4, 3), dim=1)
    assert torch.allclose(project((inside @ basis.T).half(), basis), inside, atol=2e-3)
