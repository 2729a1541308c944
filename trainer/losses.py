"""What the towers are asked to do, as pure functions of unit vectors."""

from __future__ import annotations

from dataclasses import dataclass

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


def mix_texts(texts: Tensor, shares: Tensor) -> Tensor:
    """The direction ``[n, dim]`` between unit texts ``[n, sounds, dim]``; ``shares [n, sounds]`` of the power."""
    return F.normalize((shares.unsqueeze(2) * texts).sum(1), dim=1)


def project(vectors: Tensor, basis: Tensor) -> Tensor:
    """Teacher vectors ``[n, 384]`` in the space: onto the basis ``[384, dim]``, unit length again."""
    return F.normalize(vectors.to(torch.float32) @ basis, dim=1)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Which sounds and texts of a batch belong together.

    ``own [sounds, texts]``: the text describes the sound. ``alike [sounds, texts]``: it is another's, but says the same
    as one of the sound's own, or that other is the same sound: no example of a wrong answer.
    """

    own: Tensor
    alike: Tensor

    def to(self, device: torch.device) -> Pairs:
        """The same on another device."""
        return Pairs(self.own.to(device), self.alike.to(device))

    @property
    def spared(self) -> int:
        """How many pairs are not counted as negatives."""
        return int(self.alike.sum())


def pairs_of(owner: Tensor, sound_keys: Tensor, text_keys: Tensor) -> Pairs:
    """``owner [texts]`` is the row of a text's sound; equal keys ``[sounds]``, ``[texts]`` mean equal content."""
    own = owner[None] == torch.arange(len(sound_keys), device=owner.device)[:, None]
    same_text = (text_keys[:, None] == text_keys[None]).float()
    said = (own.float() @ same_text) > 0
    same_sound = sound_keys[:, None] == sound_keys[owner][None]
    return Pairs(own, (said | same_sound) & ~own)


def info_nce(sounds: Tensor, texts: Tensor, pairs: Pairs, temperature: Tensor | float) -> Tensor:
    """InfoNCE, both directions summed: eqs. 3 to 5 of the composed-text paper, eq. 3 of the language-enhancement one.

    ``sounds [a, dim]``, ``texts [t, dim]`` unit rows. A sound with several texts has them as soft targets, each alike;
    each direction is a mean over its rows.
    """
    scores = (sounds @ texts.T / temperature).masked_fill(pairs.alike, -torch.inf)
    return _towards(scores, pairs.own) + _towards(scores.T, pairs.own.T)


def _towards(scores: Tensor, own: Tensor) -> Tensor:
    """Mean cross-entropy of rows ``[n, m]`` with targets spread evenly over their own columns."""
    chances = torch.where(own, scores.log_softmax(1), torch.zeros_like(scores))
    return -(chances.sum(1) / own.sum(1).clamp(min=1)).mean()
