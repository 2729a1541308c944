"""All that the training stages read, and nothing else: worked out from the data, or packed small for another machine.

Packed, the audio tower's inputs are what they were, bit by bit. The text tower's targets, a few hundred thousand
vectors of float16, are packed as int8 of their projections on the space, a scale a dimension: mean cosine 0.99995 with
what they were, least 0.9999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from engine.types import FloatArray
from exporters.frontend import FrontConfig
from exporters.towers import AudioConfig, AudioTower, unit
from trainer.alignment import Targets, targets_of
from trainer.cache import write_atomic
from trainer.fingerprints import Inputs, StageError
from trainer.hearing import Views
from trainer.losses import project

LEVELS = 127  # of int8, each way


@dataclass(frozen=True)
class TextInputs:
    """What the text tower's training reads.

    ``ids`` are the texts' pieces, ``targets [texts, width]`` what they mean, projected on ``basis [width, dim]``;
    ``weights [texts]`` say how often each comes up, ``phrasings [texts]`` the same when it is phrasings' turn.
    ``made_of`` is its fingerprint, whichever way it came.
    """

    ids: Sequence[list[int]]
    targets: NDArray[np.float16]
    basis: Tensor
    weights: NDArray[np.float64]
    phrasings: NDArray[np.float64]
    tokenizer: Tokenizer
    made_of: Inputs

    def points(self) -> FloatArray:
        """The targets in the space ``[texts, dim]``, unit length."""
        return np.asarray(project(torch.from_numpy(self.targets), self.basis).numpy(), np.float32)

    def save(self, path: Path) -> None:
        """Write them small."""
        rows, place = _distinct(self.targets)
        levels, scale = quantised(project(torch.from_numpy(rows), self.basis))
        told = {
            "ids": torch.tensor([piece for text in self.ids for piece in text], dtype=torch.int32),
            "lengths": torch.tensor([len(text) for text in self.ids], dtype=torch.int32),
            "levels": levels,
            "scale": scale,
            "place": torch.from_numpy(place),
            "weights": torch.from_numpy(self.weights),
            "phrasings": torch.from_numpy(self.phrasings),
            "tokenizer": self.tokenizer.to_str(),
            "made_of": dict(self.made_of),
        }
        write_atomic(path, lambda draft: torch.save(told, draft))

    @classmethod
    def load(cls, path: Path) -> TextInputs:
        """Those that were saved; their targets lie in the space already."""
        told = torch.load(path, weights_only=True)
        ends = torch.cumsum(told["lengths"], 0).tolist()
        flat = told["ids"].tolist()
        points = unit(told["levels"].float() * told["scale"])
        return cls(
            ids=[flat[start:end] for start, end in zip([0, *ends], ends, strict=False)],
            targets=points.half().numpy()[told["place"].numpy()],
            basis=torch.eye(points.shape[1]),
            weights=told["weights"].numpy(),
            phrasings=told["phrasings"].numpy(),
            tokenizer=Tokenizer.from_str(told["tokenizer"]),
            made_of=told["made_of"],
        )


@dataclass(frozen=True)
class AudioInputs:
    """What the audio tower's training reads.

    ``config`` and ``state`` are the tower before it. Each of ``views`` has its ``texts [clips, dim]``, zero for clips
    that say nothing; those of made sounds are ``certain``. ``silence [dim]`` is what pauses mean; ``weights [all
    views]`` say how often each comes up. ``made_of`` as above.
    """

    config: AudioConfig
    state: dict[str, Tensor]
    views: Sequence[Views]
    texts: Sequence[Tensor]
    certain: Sequence[bool]
    silence: Tensor
    weights: NDArray[np.float64]
    made_of: Inputs

    def tower(self) -> AudioTower:
        """The tower before its training."""
        tower = AudioTower(self.config)
        tower.load_state_dict(self.state)
        return tower.eval()

    def lessons(self, tower: AudioTower) -> list[Targets]:
        """What each view should mean, by its texts and by a ``tower`` that has learnt nothing yet."""
        told = zip(self.views, self.texts, self.certain, strict=True)
        return [targets_of(views, texts, self.silence, tower, certain) for views, texts, certain in told]

    def save(self, path: Path) -> None:
        """Write them as they are."""
        told = {
            "config": asdict(self.config),
            "state": self.state,
            "views": [
                {field.name: torch.from_numpy(np.asarray(getattr(views, field.name))) for field in fields(Views)}
                for views in self.views
            ],
            "texts": list(self.texts),
            "certain": list(self.certain),
            "silence": self.silence,
            "weights": torch.from_numpy(self.weights),
            "made_of": dict(self.made_of),
        }
        write_atomic(path, lambda draft: torch.save(told, draft))

    @classmethod
    def load(cls, path: Path) -> AudioInputs:
        """Those that were saved."""
        told = torch.load(path, weights_only=True)
        if absent := {field.name for field in fields(cls)} - told.keys():
            raise StageError(f"{path} without {', '.join(sorted(absent))}", "what is packed today", "pack it again")
        return cls(
            config=_audio_config(told["config"]),
            state=told["state"],
            views=[Views(**{name: array.numpy() for name, array in views.items()}) for views in told["views"]],
            texts=told["texts"],
            certain=told["certain"],
            silence=told["silence"],
            weights=told["weights"].numpy(),
            made_of=told["made_of"],
        )


def quantised(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors ``[n, dim]`` -> int8 levels ``[n, dim]`` and the scale of each dimension ``[dim]``."""
    scale = vectors.abs().amax(0).clamp(min=1e-12) / LEVELS
    return (vectors / scale).round().to(torch.int8), scale


def _distinct(rows: NDArray[np.float16]) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """The rows ``[m, width]`` that differ, in order of appearance, and which of them each row is ``[n]``."""
    numbers: dict[bytes, int] = {}
    place = np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in rows])
    _, first = np.unique(place, return_index=True)
    return rows[first], place


def _audio_config(told: dict[str, Any]) -> AudioConfig:
    """As ``asdict`` has it."""
    blocks = tuple((int(out), int(stride)) for out, stride in told["blocks"])
    return AudioConfig(**{**told, "front": FrontConfig(**told["front"]), "blocks": blocks})
