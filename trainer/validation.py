"""What a run is asked between epochs: clips that it doesn't learn from, by their captions."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.examples import Example
from trainer.loader import Loader
from trainer.metrics import hits_at
from trainer.tower_sets import Towers
from trainer.translate import tag_of

#: Captions read at once.
BATCH = 64


class Validation:
    """R@1 both ways: a clip is the mean of its windows, any of its captions is right."""

    def __init__(self, loader: Loader, examples: Sequence[Example], split: str) -> None:
        """``loader`` gives the windows of ``examples``, which are the clips of ``split``."""
        self._loader, self._examples, self._split = loader, examples, split

    @property
    def fingerprint(self) -> str:
        """The same for the same clips and captions."""
        return json.dumps([self._split, self._loader.fingerprint], sort_keys=True)

    @torch.inference_mode()
    def ask(self, towers: Towers, device: torch.device) -> dict[str, float]:
        """The figures, by what they are called in the curve."""
        towers.eval()
        sums: dict[str, Tensor] = {}
        for batch in self._loader:
            for example, vector in zip(batch.examples, towers.encode_audio(batch.samples.to(device)), strict=True):
                sums[example.id] = sums.get(example.id, torch.zeros_like(vector)) + vector
        clips = [example for example in self._examples if example.id in sums]
        sounds = F.normalize(torch.stack([sums[clip.id] for clip in clips]), dim=1)
        owner = np.array([row for row, clip in enumerate(clips) for _ in clip.captions])
        scores = (sounds @ self._encoded(towers, clips).T).float().cpu().numpy()
        right = owner[None] == np.arange(len(clips))[:, None]
        return {
            f"{self._split} text-to-audio R@1": float(hits_at(scores.T, right.T, 1).mean()),
            f"{self._split} audio-to-text R@1": float(hits_at(scores, right, 1).mean()),
        }

    def _encoded(self, towers: Towers, clips: Sequence[Example]) -> Tensor:
        """All captions ``[captions, dim]``, as training gives them."""
        assert towers.source.text is not None
        reader = towers.source.text.tokenizer
        texts = [tag_of(reader, caption.lang) + caption.text for clip in clips for caption in clip.captions]
        return torch.cat([towers.encode_texts(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)])
