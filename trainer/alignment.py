"""The audio tower's lessons: what is heard should land where its words lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.towers import AudioTower, unit
from trainer.devices import device_of
from trainer.hearing import Views
from trainer.losses import cosine_distance, mix_texts, soft_contrast

BATCH = 256
TEACHER_WEIGHT, TEXT_WEIGHT, CONTRAST_WEIGHT = 2.0, 0.7, 0.3
CONTRAST_SCALE, CONTRAST_SHARPNESS = 20.0, 15.0
DROPOUT = 0.2
#: A text is believed from nothing to fully as its cosine with what the teacher hears goes over this range: file
#: names can be cryptic ("lose", "object hit"), and then the teacher alone is followed.
DOUBTED, BELIEVED = 0.1, 0.5
LEAST_BELIEF = 0.1
#: A sound with less than this share of a mixture's power goes unnamed.
AUDIBLE = 0.1


@dataclass(frozen=True, slots=True)
class Targets:
    """What each view should mean: ``text`` and ``teacher`` unit ``[views, dim]``, ``belief [views]`` 0..1."""

    features: NDArray[np.float16]
    text: Tensor
    teacher: Tensor
    belief: Tensor


@torch.inference_mode()
def targets_of(views: Views, texts: Tensor, silence: Tensor, tower: AudioTower, certain: bool = False) -> Targets:
    """Targets from the clips' ``texts [clips, dim]`` (zero: none) and a ``tower`` that still is the teacher.

    ``certain``: every text is true, and the teacher isn't asked: it hardly hears a click. Pauses mean ``silence
    [dim]``, whatever is heard in the rest of the clip: of what they are told, a tower makes what it then hears in every
    faint sound.
    """
    told, shares = texts[torch.from_numpy(np.maximum(views.clips, 0))], torch.from_numpy(views.shares)
    text = torch.where(shares.sum(1, keepdim=True) > 0, mix_texts(told, audible(shares)), silence)
    if certain:
        return Targets(views.features, text, text, torch.ones(len(text)))
    teacher = torch.cat(
        [
            tower.embed(torch.from_numpy(views.features[i : i + 1024]).float().to(device_of(tower))).cpu()
            for i in range(0, len(text), 1024)
        ]
    )
    belief = (((text * teacher).sum(1) - DOUBTED) / (BELIEVED - DOUBTED)).clamp(LEAST_BELIEF, 1)
    return Targets(views.features, text, teacher, belief * (text.norm(dim=1) > 0.5))


def audible(shares: Tensor) -> Tensor:
    """Shares ``[views, sounds]`` of a mixture's power without the sounds that go unnamed; those left add up to one, and
    to 0 where nothing sounds."""
    named = torch.where(shares < AUDIBLE, torch.zeros(()), shares)
    return named / named.sum(1, keepdim=True).clamp(min=AUDIBLE)


class AlignmentLesson:
    """Losses of a batch of views, drawn with ``weights [views]``; the trunk's features are given, not computed."""

    def __init__(self, tower: AudioTower, lessons: list[Targets], weights: NDArray[np.float64]) -> None:
        self._tower = tower
        self._features = np.concatenate([lesson.features for lesson in lessons])
        self._text = torch.cat([lesson.text for lesson in lessons])
        self._teacher = torch.cat([lesson.teacher for lesson in lessons])
        self._belief = torch.cat([lesson.belief for lesson in lessons])
        self._weights = weights / weights.sum()

    def __call__(self, step: int, chance: np.random.Generator) -> Mapping[str, Tensor]:
        """Named losses of one random batch."""
        rows = chance.choice(len(self._weights), BATCH, p=self._weights)
        device = device_of(self._tower)
        features = torch.from_numpy(self._features[rows]).float()
        kept = torch.from_numpy(chance.random(features.shape) >= DROPOUT) / (1 - DROPOUT)
        vectors = self._tower.embed((features * kept.float()).to(device))
        text, belief, teacher = (told[rows].to(device) for told in (self._text, self._belief, self._teacher))
        losses = {
            "teacher": cosine_distance(vectors, teacher),
            "text": cosine_distance(vectors, text, belief),
            "contrast": soft_contrast(vectors, text, belief, CONTRAST_SCALE, CONTRAST_SHARPNESS),
        }
        weights = (TEACHER_WEIGHT, TEXT_WEIGHT, CONTRAST_WEIGHT)
        return {"total": sum(w * v for w, v in zip(weights, losses.values(), strict=True)), **losses}


def mean_text(vectors: Tensor) -> Tensor:
    """Several true names ``[n, dim]`` of one sound -> the unit vector between them ``[dim]``."""
    return unit(vectors.mean(0, keepdim=True))[0]


def clip_balance(views: Views) -> NDArray[np.float64]:
    """Weights ``[views]`` so that a clip counts by the root of its windows, not by their number."""
    counts = np.bincount(views.first)
    return 1 / np.sqrt(counts[views.first])
