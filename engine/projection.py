"""A sound's vector -> a point of the text space, made of the captions remembered.

``p = sum_i w_i t_i``, ``w = softmax(cos(a, t_i) / tau)`` over all N of them (arXiv:2309.12242, eqs. 4 and 5). Over the
K nearest alone the error is bounded: what is left out has cosines of at most the K-th, so at most the share
``tail_share`` of the weight; what it adds is a mean of unit vectors, so ``|p - p_K| <= tail_share * (1 + |p_K|)``. That
holds of the true K nearest: a memory that looks them up in a graph misses some, and whatever it misses isn't bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import QueryError
from engine.session import FillingSession
from engine.types import FloatArray

#: Sounds that are compared with the captions at once.
SOUNDS = 16
#: How many of the captions that weighed most are told.
EVIDENCE = 5
#: Numbers in a block of captions: widened to float32, 4 MB, it is still in a cache when it is weighed.
BLOCK = 1 << 20
#: What compares and weighs a block; ``python -m exporters.projection`` writes it.
GRAPH = Path(__file__).with_name("projection.onnx")
#: By how much, in units of tau, the largest cosine may differ from where weights are one: float32 holds all their sum.
MOST_ABOVE = 60.0
#: How much above that, before anything is known, a cosine of one is taken to be.
_USUAL_ABOVE = 40.0


@dataclass(frozen=True, slots=True)
class Laid:
    """``count`` captions laid out for projecting: ``blocks [m, dim + 1, size]``, a caption a column, the last padded.

    In float16, as a bundle ships them: half as much is to be read. A vector is rounded by at most 1/2000 of its length.
    By columns since a product reads them without a gap: by rows the same one waits for memory twice as long. The last
    number of each is one: the product that adds up the weighted captions adds up their weights as well.
    """

    blocks: NDArray[np.float16]
    count: int

    @property
    def dim(self) -> int:
        """Numbers of a caption's vector."""
        return int(self.blocks.shape[1]) - 1

    def __len__(self) -> int:
        return self.count

    def rows(self, places: NDArray[np.int64]) -> FloatArray:
        """The vectors ``[k, dim]`` of the captions at ``places [k]``."""
        block, column = np.divmod(places, self.blocks.shape[2])
        return self.blocks[block, :-1, column].astype(np.float32)


def laid_out(texts: FloatArray) -> Laid:
    """Captions ``[N, dim]`` for whoever projects onto them often, in a copy. Raises ``QueryError`` for a NaN."""
    count, dim = texts.shape
    if not np.isfinite(texts).all():
        raise QueryError("remembered vectors with NaN or infinity", "unit vectors", "remember the captions again")
    fewest = -(-count // max(1, BLOCK // dim))
    size = -(-count // fewest)  # alike, so that little of the last one is empty
    blocks = np.zeros((-(-count // size), dim + 1, size), np.float16)
    for block, first in zip(blocks, range(0, count, size), strict=True):
        some = texts[first : first + size]
        block[:-1, : len(some)] = some.T
        block[-1, : len(some)] = 1
    return Laid(blocks, count)


@dataclass(frozen=True, slots=True)
class Projected:
    """Points ``[n, dim]``, and for each the rows of the captions that weighed most ``[n, e]``, heaviest first, with
    their weights and their cosines with the sound, ``[n, e]`` each."""

    points: FloatArray
    rows: NDArray[np.int64]
    weights: FloatArray
    cosines: FloatArray


def project(sounds: FloatArray, texts: FloatArray | Laid, tau: float, renormalise: bool = True) -> Projected:
    """Project sounds ``[n, dim]`` onto all captions ``[N, dim]``, unit vectors both; over all of them, each
    rounded to float16.

    ``renormalise``: points of length one. Raises ``QueryError`` if tau is not positive, if nothing is remembered, for
    sounds of another size, and for captions with a NaN.
    """
    require_tau(tau)
    if not len(texts):
        raise nothing_remembered()
    laid = texts if isinstance(texts, Laid) else laid_out(texts)
    sounds = np.asarray(sounds, np.float32)
    if sounds.ndim != 2 or sounds.shape[1] != laid.dim:
        raise QueryError(f"sounds {list(sounds.shape)}", f"[n, {laid.dim}]", "use vectors of one space")
    told = min(EVIDENCE, len(laid))
    points = np.empty((len(sounds), laid.dim), np.float32)
    rows = np.empty((len(sounds), told), np.int64)
    weights, cosines = np.empty((2, len(sounds), told), np.float32)
    for first in range(0, len(sounds), SOUNDS):
        some = slice(first, first + SOUNDS)
        weighed = _weighed(sounds[some], laid, tau)
        points[some] = weighed.sums / weighed.totals
        rows[some] = [_heaviest(*each, told) for each in zip(weighed.logits, weighed.tops, strict=True)]
        logits = np.take_along_axis(weighed.logits, rows[some], 1)
        cosines[some] = logits * _safe(tau)
        weights[some] = np.exp((logits - weighed.zeros).astype(np.float64)) / weighed.totals
    return Projected(_unit(points) if renormalise else points, rows, weights, cosines)


def nearest(sounds: FloatArray, texts: FloatArray) -> Projected:
    """The caption nearest to each sound is its point (arXiv:2309.12242, eq. 3). Raises ``QueryError`` without any."""
    if not len(texts):
        raise nothing_remembered()
    told = min(EVIDENCE, len(texts))
    rows = np.empty((len(sounds), told), np.int64)
    weights, cosines = np.zeros((2, len(sounds), told), np.float32)
    for number, alike in enumerate(_alike(sounds, texts.T)):
        rows[number] = _largest(alike, told)
        cosines[number] = alike[rows[number]]
    weights[:, 0] = 1
    return Projected(texts[rows[:, 0]], rows, weights, cosines)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A point ``[dim]`` of the K nearest, and how far at most it is from that of all N; but for rounding, float32's (at
    a tau of 1e-5 that of a cosine is a hundredth of it) and, where all are projected upon, float16's."""

    point: FloatArray
    weights: FloatArray
    error: float


def project_nearest(
    cosines: FloatArray, vectors: FloatArray, count: int, tau: float, renormalise: bool = True
) -> Bounded:
    """Project onto the K captions nearest to one sound, of ``count`` that are remembered.

    ``cosines [K]`` with it and their ``vectors [K, dim]``, in any order. Raises ``QueryError`` as ``project`` does.
    """
    require_tau(tau)
    if not len(vectors):
        raise nothing_remembered()
    shares = _shares(cosines, tau)
    point = (shares / shares.sum()) @ vectors.astype(np.float64)
    length = float(np.linalg.norm(point))
    error = tail_share(cosines, count, tau) * (1 + length)
    if renormalise:
        # |x/|x| - y/|y|| <= 2 |x - y| / (|x| + |y|), and |y| >= |x| - |x - y|; unit vectors are never further than 2.
        error = 2 * error / (2 * length - error) if 2 * error <= 2 * length else 2.0
        point = point / max(length, 1e-12)
    weights = (shares / shares.sum()).astype(np.float32)
    return Bounded(point.astype(np.float32), weights, min(error, 2.0))


def tail_share(cosines: FloatArray, count: int, tau: float) -> float:
    """The largest share of the weight that the captions beyond these K nearest could have, were all at the K-th."""
    shares = _shares(cosines, tau)
    rest = max(count - len(cosines), 0) * float(shares.min())
    return rest / (float(shares.sum()) + rest)


def require_tau(tau: float) -> None:
    """Raise ``QueryError`` if tau is not a positive, finite number."""
    if not (np.isfinite(tau) and tau > 0):
        raise QueryError(f"tau = {tau:g}", "a positive temperature", "0.01 is the usual one")


def nothing_remembered(has_decoder: bool = True) -> QueryError:
    """What to say where there is nothing to project onto; without a decoder that is the end of it."""
    action = "fill the memory with `earshot remember TEXTS…`"
    return QueryError("no captions remembered", "some", f"{action}, or use --strategy audio" if has_decoder else action)


def _alike(sounds: FloatArray, columns: FloatArray) -> Iterator[FloatArray]:
    """The cosines ``[N]`` of each sound, a few sounds at a time: an hour of windows must not fill the memory."""
    for first in range(0, len(sounds), SOUNDS):
        yield from sounds[first : first + SOUNDS] @ columns


@dataclass(frozen=True, slots=True)
class _Weighed:
    """Of n sounds: ``logits [n, m * size]``, cosines over tau, -inf in columns that are no caption; the largest of each
    block ``tops [n, m]``; ``sums [n, dim]`` and ``totals [n, 1]`` of captions and of weights, each weight ``exp(logit -
    zero)`` with ``zeros [n, 1]``."""

    logits: FloatArray
    tops: FloatArray
    zeros: FloatArray
    sums: NDArray[np.float64]
    totals: NDArray[np.float64]


def _weighed(sounds: FloatArray, laid: Laid, tau: float) -> _Weighed:
    """Compare and weigh all captions, each block read from memory once.

    Weights are relative to somewhat less than the largest that a cosine may be. Where the largest of a sound is so far
    from it that float32 does not hold their sum, they are weighed again, relative to that.
    """
    count, dim, size = laid.blocks.shape
    sharp = np.zeros((len(sounds), dim), np.float32)  # the ones in the captions' last row don't count
    sharp[:, :-1] = sounds / _safe(tau)
    zeros = np.linalg.norm(sounds, axis=1, keepdims=True) / _safe(tau) - np.float32(_USUAL_ABOVE)
    filled = np.empty((count, len(sounds), size), np.float32)
    sums = np.empty((count, len(sounds), dim), np.float32)
    for _ in range(2):  # relative to the largest itself, the second is right
        _graph().fill({"sounds": sharp, "zeros": zeros}, {"captions": laid.blocks}, {"logits": filled, "sums": sums})
        filled[-1, :, len(laid) - (count - 1) * size :] = -np.inf
        tops = filled.max(axis=2).T
        most = tops.max(axis=1, keepdims=True)
        if (np.abs(most - zeros) <= MOST_ABOVE).all():
            break
        zeros = np.ascontiguousarray(most)
    logits, total = filled.transpose(1, 0, 2).reshape(len(sounds), -1), sums.sum(axis=0, dtype=np.float64)
    return _Weighed(logits, tops, zeros, total[:, :-1], total[:, -1:])


@cache
def _graph() -> FillingSession:
    return FillingSession(GRAPH)


def _shares(cosines: FloatArray, tau: float) -> NDArray[np.float64]:
    """Weights ``[K]`` relative to the largest."""
    shares: NDArray[np.float64] = np.exp((cosines - cosines.max()).astype(np.float64) / float(_safe(tau)))
    return shares


def _safe(tau: float) -> np.float32:
    """Tau so that float32 holds it: below and above, the weights are the same."""
    return np.float32(min(max(tau, 1e-30), 1e30))


def _heaviest(cosines: FloatArray, tops: FloatArray, count: int) -> NDArray[np.int64]:
    """The places of the ``count`` largest cosines ``[N]``; each is at least the count-th of the blocks' ``tops``."""
    if len(tops) < count:
        return _largest(cosines, count)
    near = np.flatnonzero(cosines >= np.sort(tops)[-count])
    return near[_largest(cosines[near], count)]


def _largest(values: FloatArray, count: int) -> NDArray[np.int64]:
    """The places of the ``count`` largest of ``[m]``, largest first; the first of equal ones first."""
    if len(values) > count:
        floor = np.partition(values, len(values) - count)[len(values) - count]
        places = np.flatnonzero(values >= floor)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:count]


def _unit(points: FloatArray) -> FloatArray:
    return np.asarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12), np.float32)
