"""The text tower's lessons: every text should land where MiniLM puts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from engine.types import FloatArray
from exporters.towers import TextConfig, TextTower
from trainer.devices import device_of
from trainer.losses import cosine_distance, geometry, project
from trainer.vocabulary import starting_weights

BATCH = 384
GEOMETRY_WEIGHT = 10.0


def space_basis(vectors: NDArray[np.float16], dim: int) -> Tensor:
    """The ``dim`` main directions ``[384, dim]`` of unit teacher vectors, about zero: cosines are kept best."""
    scatter = np.zeros((vectors.shape[1], vectors.shape[1]))
    for start in range(0, len(vectors), 8192):
        part = vectors[start : start + 8192].astype(np.float64)
        scatter += part.T @ part
    _, directions = np.linalg.eigh(scatter)  # ascending
    return torch.from_numpy(np.ascontiguousarray(directions[:, ::-1][:, :dim], dtype=np.float32))


def new_text_tower(
    config: TextConfig, tokenizer: Tokenizer, texts: Sequence[list[int]], pieces: FloatArray, seed: int
) -> TextTower:
    """A tower whose bag of ``pieces`` ``[pieces, dim]`` is already near the teacher; its layers add nothing yet."""
    torch.manual_seed(seed)
    tower = TextTower(config)
    with torch.no_grad():
        tower.pieces.weight.copy_(torch.from_numpy(pieces))
        tower.weights.copy_(torch.from_numpy(starting_weights(tokenizer, texts))[:, None])
        tower.positions.normal_(std=0.02)
        tower.out.weight.zero_()
        tower.out.bias.zero_()
    return tower


class TextLesson:
    """Losses of a batch of texts of about equal length; the teacher's vectors are projected onto the space.

    ``weights [n]``, positive, say how often each text comes up.
    """

    def __init__(
        self,
        tower: TextTower,
        ids: Sequence[list[int]],
        vectors: NDArray[np.float16],
        basis: Tensor,
        weights: NDArray[np.float64],
    ) -> None:
        self._tower, self._vectors, self._basis = tower, vectors, basis
        longest = tower.config.max_tokens
        self._ids = [text[:longest] for text in ids]
        self._lengths = np.array([len(text) for text in self._ids])
        self._order = np.argsort(self._lengths, kind="stable")
        self._edges = np.searchsorted(self._lengths[self._order], np.arange(longest + 2))
        self._reached = np.append(0.0, np.cumsum(weights[self._order]))

    def __call__(self, step: int, chance: np.random.Generator) -> Mapping[str, Tensor]:
        """Named losses of one random batch."""
        length = self._lengths[self._draw(chance, 0, len(self._ids), 1)[0]]
        rows = self._draw(chance, self._edges[length - 1], self._edges[length + 1], BATCH)
        device = device_of(self._tower)
        ids, mask = batch_of([self._ids[row] for row in rows])
        targets = project(torch.from_numpy(self._vectors[rows]), self._basis).to(device)
        found = self._tower(ids.to(device), mask.to(device))
        near, shape = cosine_distance(found, targets), geometry(found, targets)
        return {"total": near + GEOMETRY_WEIGHT * shape, "near": near, "geometry": shape}

    def _draw(self, chance: np.random.Generator, first: int, last: int, count: int) -> NDArray[np.int64]:
        """Random texts among places ``first:last`` of the order, by weight."""
        marks = chance.uniform(self._reached[first], self._reached[last], count)
        places = np.searchsorted(self._reached, marks, side="right") - 1
        return self._order[np.clip(places, first, last - 1)]


def batch_of(ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Piece lists -> ``(input_ids, attention_mask)``, int64 ``[texts, longest]``, zeros at the end."""
    longest = max(len(text) for text in ids)
    padded = torch.zeros(len(ids), longest, dtype=torch.int64)
    mask = torch.zeros(len(ids), longest, dtype=torch.int64)
    for row, text in enumerate(ids):
        padded[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    return padded, mask


@torch.inference_mode()
def encode_texts(tower: TextTower, tokenizer: Tokenizer, texts: Sequence[str], batch: int = 256) -> Tensor:
    """Unit vectors ``[texts, dim]`` of the tower as it stands."""
    limit = tower.config.max_tokens
    ids = [encoding.ids[:limit] for encoding in tokenizer.encode_batch(list(texts))]
    parts = [tower(*batch_of(ids[start : start + batch])) for start in range(0, len(ids), batch)]
    return torch.cat(parts)
