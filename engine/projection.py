"""A sound's vector -> a point of the text space, made of the captions remembered.

``p = sum_i w_i t_i``, ``w = softmax(cos(a, t_i) / tau)`` over all N of them (arXiv:2309.12242, eqs. 4 and 5). Over the
K nearest alone the error is bounded: what is left out has cosines of at most the K-th, so at most the share
``tail_share`` of the weight; what it adds is a mean of unit vectors, so ``|p - p_K| <= tail_share * (1 + |p_K|)``. That
holds of the true K nearest: a memory that looks them up in a graph misses some, and whatever it misses isn't bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import QueryError
from engine.types import FloatArray

#: Sounds that are compared with the captions at once.
SOUNDS = 16
#: How many of the captions that weighed most are told.
EVIDENCE = 5
#: Weights that many nats below the largest, and ln(N) more, are lost in float32's own rounding, even all together.
_NOTHING = 17.0


@dataclass(frozen=True, slots=True)
class Laid:
    """Captions ``[N, dim]`` laid out for projecting: by ``rows`` to be weighed, by ``columns`` to be compared.

    A product with one sound reads ``columns``, each without a gap, in less than half the time.
    """

    rows: FloatArray
    columns: FloatArray

    def __len__(self) -> int:
        return len(self.rows)


def laid_out(texts: FloatArray) -> Laid:
    """Captions ``[N, dim]`` for whoever projects onto them often; takes twice their memory."""
    rows = np.ascontiguousarray(texts, np.float32)
    return Laid(rows, np.ascontiguousarray(rows.T))


@dataclass(frozen=True, slots=True)
class Projected:
    """Points ``[n, dim]``, and for each the rows of the captions that weighed most ``[n, e]``, heaviest first, with
    their weights and their cosines with the sound, ``[n, e]`` each."""

    points: FloatArray
    rows: NDArray[np.int64]
    weights: FloatArray
    cosines: FloatArray


def project(sounds: FloatArray, texts: FloatArray | Laid, tau: float, renormalise: bool = True) -> Projected:
    """Project sounds ``[n, dim]`` onto all captions ``[N, dim]``, unit vectors both; exact in float32.

    ``renormalise``: points of length one. Raises ``QueryError`` if tau is not positive or nothing is remembered.
    """
    require_tau(tau)
    if not len(texts):
        raise nothing_remembered()
    laid = texts if isinstance(texts, Laid) else Laid(texts, texts.T)
    told, cut = min(EVIDENCE, len(laid)), (_NOTHING + np.log(len(laid))) * tau
    points = np.empty((len(sounds), laid.rows.shape[1]), np.float32)
    rows = np.empty((len(sounds), told), np.int64)
    weights, cosines = np.empty((2, len(sounds), told), np.float32)
    for number, alike in enumerate(_alike(sounds, laid.columns)):
        best = alike.max()
        # Most captions weigh nothing: they are left out before anything is raised to a power.
        near = np.flatnonzero(alike >= best - cut)
        shares = np.exp((alike[near] - best).astype(np.float64) / tau)
        points[number] = _weighed((shares / shares.sum()).astype(np.float32), laid, near)
        heaviest = near[_largest(alike[near], told)]
        rows[number] = heaviest if len(heaviest) == told else _largest(alike, told)
        cosines[number] = alike[rows[number]]
        weights[number] = np.exp((cosines[number] - best).astype(np.float64) / tau) / shares.sum()
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
    """A point ``[dim]`` of the K nearest, and how far at most it is from that of all N."""

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
    shares = np.exp((cosines - cosines.max()).astype(np.float64) / tau)
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
    shares = np.exp((cosines - cosines.max()).astype(np.float64) / tau)
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
        few = sounds[first : first + SOUNDS]
        yield from few @ columns if len(few) > 1 else (few[0] @ columns)[None]


def _weighed(shares: FloatArray, texts: Laid, near: NDArray[np.int64]) -> FloatArray:
    """``shares [m] @ texts.rows[near]``: by columns where copying rows would take longer."""
    if len(near) > len(texts) // 16:
        dense = np.zeros(len(texts), np.float32)
        dense[near] = shares
        return np.asarray(texts.columns @ dense)
    return np.asarray(shares @ texts.rows[near])


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
