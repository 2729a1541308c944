"""The gap between sound and words, bridged while a captioner learns: noise, a shift, a linear adapter.

A decoder that has only met text vectors is given sound vectors later. So in training a text vector is moved to where a
sound's might be: ``f(adapt(z) + shift + noise)``. Who is asked with projections can practise on these: ``as_asked``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.encoders import normalise
from engine.types import FloatArray
from exporters.towers import unit

#: How often a text is practised as its sound would be asked, beside once as it is.
ASKED = 3
#: From this cosine on a caption that is remembered says the same as a text: it, or its translation.
SAME = 0.97
#: Texts that are compared with the memory at once.
_AT_ONCE = 512
#: What an estimate stands for: the papers call the same number a standard deviation (0.015) and a variance (0.013).
Reading = Literal["std", "variance"]


def sigma_of_pairs(sounds: FloatArray, texts: FloatArray) -> float:
    """The mean infinity norm of the differences of paired vectors ``[n, dim]``; 30 pairs are enough.

    arXiv:2309.07372, section 4.2.
    """
    return float(np.abs(np.asarray(sounds, np.float64) - texts).max(axis=1).mean())


def sigma_of_captions(groups: Sequence[FloatArray]) -> float:
    """The mean infinity norm of the differences between captions ``[m, dim]`` of one clip, over clips and their pairs.

    arXiv:2309.12242, section 3.1.1. Raises ``ValueError`` if no clip has two.
    """
    apart = [np.abs(a.astype(np.float64) - b).max() for group in groups for a, b in combinations(group, 2)]
    if not apart:
        raise ValueError("found no clip with two captions, expected some")
    return float(np.mean(apart))


def deviation(estimate: float, reading: Reading) -> float:
    """The noise's standard deviation, whichever of the two the estimate is taken for."""
    return estimate if reading == "std" else estimate**0.5


@dataclass(frozen=True)
class Bridge:
    """How a text vector is moved before the decoder sees it.

    ``matrix [dim, dim]`` and ``offset [dim]`` come first, then noise of standard deviation ``sigma`` in every number.
    ``renormalise``: back to length one, which is the length that a sound's vector has; the papers don't say.
    """

    sigma: float = 0.0
    matrix: FloatArray | None = None
    offset: FloatArray | None = None
    renormalise: bool = True

    def __call__(self, vectors: Tensor, chance: np.random.Generator | None) -> Tensor:
        """``[n, dim] -> [n, dim]``; without ``chance``, without noise."""
        if self.matrix is not None:
            vectors = vectors @ torch.from_numpy(self.matrix).to(vectors)
        if self.offset is not None:
            vectors = vectors + torch.from_numpy(self.offset).to(vectors)
        if self.sigma and chance is not None:
            noise = chance.standard_normal(vectors.shape, dtype=np.float32) * np.float32(self.sigma)
            vectors = vectors + torch.from_numpy(noise).to(vectors)
        return unit(vectors) if self.renormalise else vectors


def as_asked(
    texts: FloatArray, gaps: FloatArray, memory: FloatArray, tau: float, chance: np.random.Generator
) -> FloatArray:
    """Where texts ``[n, dim]`` would come to lie were they sounds that are projected: unit vectors ``[n, dim]``.

    Each is moved by one of ``gaps [m, dim]``, what lay between a sound and its text in pairs, and projected on the
    ``memory [k, dim]`` (arXiv:2309.12242, eqs. 4 and 5) without what says the same as it, unless that is all: a sound's
    own caption is seldom remembered.
    """
    found = np.empty(texts.shape, np.float32)
    for first in range(0, len(texts), _AT_ONCE):
        some = texts[first : first + _AT_ONCE]
        moved = normalise(some + gaps[chance.integers(len(gaps), size=len(some))])
        powers = (moved @ memory.T).astype(np.float64) / tau
        same = some @ memory.T > SAME
        powers[same & ~same.all(axis=1, keepdims=True)] = -np.inf
        weights = np.exp(powers - powers.max(axis=1, keepdims=True))
        found[first : first + len(some)] = normalise((weights @ memory).astype(np.float32))
    return found


def practised(
    texts: Sequence[str], vectors: FloatArray, gaps: FloatArray, memory: FloatArray, tau: float
) -> tuple[list[str], FloatArray]:
    """``texts`` and their vectors ``[n, dim]``, once as they are and ``ASKED`` times ``as_asked``."""
    chance = np.random.default_rng(0)
    asked = [as_asked(vectors, gaps, memory, tau, chance) for _ in range(ASKED)]
    return [*texts] * (1 + ASKED), np.concatenate([vectors, *asked])


def shift(sounds: FloatArray, texts: FloatArray) -> FloatArray:
    """The gap between the centres of ``[n, dim]`` and ``[m, dim]``, to be added to texts (arXiv:2309.12242, eq. 2)."""
    return np.asarray(sounds.mean(axis=0, dtype=np.float64) - texts.mean(axis=0, dtype=np.float64), np.float32)


def adapter(sounds: FloatArray, texts: FloatArray, ridge: float = 1e-2) -> tuple[FloatArray, FloatArray]:
    """The linear map ``[dim, dim]`` and offset ``[dim]`` of least squares from texts ``[n, dim]`` to their sounds.

    arXiv:2309.07372, section 4.3, whose loss is the mean squared error: here its minimum, with ``ridge`` times the mean
    variance added to every direction, as pairs may be fewer than directions.
    """
    x, y = np.asarray(texts, np.float64), np.asarray(sounds, np.float64)
    middle_x, middle_y = x.mean(axis=0), y.mean(axis=0)
    x, y = x - middle_x, y - middle_y
    scatter: NDArray[np.float64] = x.T @ x
    scatter += np.eye(len(scatter)) * ridge * np.trace(scatter) / len(scatter)
    matrix = np.linalg.solve(scatter, x.T @ y)
    return matrix.astype(np.float32), (middle_y - middle_x @ matrix).astype(np.float32)
