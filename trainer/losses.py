"""What the towers are asked to do, as pure functions of unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_distance(vectors: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of ``1 - cos`` over unit rows ``[n, dim]``, weighted by ``[n]`` where given."""
    distances = 1 - (vectors * targets).sum(1)
    return distances.mean() if weights is None else (distances * weights).sum() / weights.sum().clamp(min=1e-6)


def geometry(vectors: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of all cosines in the batch from the teacher's (arXiv:1907.09682, eq. 4, on cosines)."""
    return F.mse_loss(vectors @ vectors.T, targets @ targets.T)


def soft_contrast(sounds: Tensor, texts: Tensor, weights: Tensor, scale: float, sharpness: float) -> Tensor:
    """Contrast of sounds with the batch's texts, both ways, where texts that mean the same are no negatives.

    ``sounds``, ``texts``: unit ``[n, dim]``; ``weights`` ``[n]`` say how far each pair is believed. The target of row
    i is ``softmax(sharpness * texts_i . texts_j)`` instead of InfoNCE's one-hot (arXiv:2103.00020, figure 3): the
    batch is full of near repeats ("rain", "light rain").
    """
    logits = scale * sounds @ texts.T
    targets = (sharpness * texts @ texts.T).softmax(1)
    forth = -(targets * logits.log_softmax(1)).sum(1)
    back = -(targets * logits.T.log_softmax(1)).sum(1)
    return ((forth + back) / 2 * weights).sum() / weights.sum().clamp(min=1e-6)


def tag_loss(logits: Tensor, chances: Tensor) -> Tensor:
    """Binary cross-entropy with the teacher's chances, summed over classes: ``[..., classes]`` -> scalar.

    Classes that both deem absent would drown the rest in a mean, so it is the sum, less its smallest possible value.
    """
    floor = F.binary_cross_entropy(chances, chances, reduction="none")
    found = F.binary_cross_entropy_with_logits(logits, chances, reduction="none")
    return (found - floor).sum(-1).mean()


def mix_texts(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """The direction between two unit texts ``[n, dim]``; ``share [n]`` is the first one's share of the power."""
    return F.normalize(share[:, None] * first + (1 - share[:, None]) * second, dim=1)


def project(vectors: Tensor, basis: Tensor) -> Tensor:
    """Teacher vectors ``[n, 384]`` in the space: onto the basis ``[384, dim]``, unit length again."""
    return F.normalize(vectors.to(torch.float32) @ basis, dim=1)
