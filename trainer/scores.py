"""What is measured of many queries, each belonging to a clip, and how sure it is. Pure numpy, no torch.

Queries of one clip are not independent, so clips are resampled, not queries (the cluster bootstrap: Davison & Hinkley
1997, section 3.8). What was answered stays as it was: a clip drawn twice counts twice, yet is not its own rival.
A drawing is a row of weights, how often each clip was drawn; two bundles share their drawings, which pairs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from engine.types import FloatArray
from trainer.metrics import Floats, Relevance, Scores, ranked_order

Integers: TypeAlias = NDArray[np.integer]

#: Drawings behind an interval, and the seed: the same every time.
ROUNDS, SEED = 1000, 0
#: Cosines held at once while ranks are counted.
_MOST_COSINES = 2**24
_DECIMALS = 6


class Statistic(Protocol):
    """A number about clips."""

    @property
    def count(self) -> int:
        """How many queries are behind it."""

    def under(self, weights: Integers) -> Floats:
        """``[rounds, clips]``, how often each clip is drawn -> ``[rounds]``; NaN where nothing drawn counts."""


@dataclass(frozen=True, slots=True, eq=False)
class _OfValues:
    """Of ``values [queries]``; ``clips [queries]`` says whose each is."""

    values: Floats
    clips: Integers

    @property
    def count(self) -> int:
        """See ``Statistic.count``."""
        return len(self.values)


class Mean(_OfValues):
    """The mean of ``values [queries]``; ``clips [queries]`` says whose each is."""

    __slots__ = ()

    def under(self, weights: Integers) -> Floats:
        """See ``Statistic.under``."""
        size = weights.shape[1]
        sums = np.bincount(self.clips, self.values, size)
        counts = np.bincount(self.clips, minlength=size)
        with np.errstate(invalid="ignore"):  # 0 / 0 of a drawing without queries
            return np.asarray((weights @ sums) / (weights @ counts), np.float64)


class Median(_OfValues):
    """The median of ``values [queries]``, of two middle ones their mean; ``clips [queries]`` says whose each is."""

    __slots__ = ()

    def under(self, weights: Integers) -> Floats:
        """See ``Statistic.under``."""
        order = np.argsort(self.values, kind="stable")
        values, clips = self.values[order], self.clips[order]
        found = np.full(len(weights), np.nan)
        for drawing, row in enumerate(weights):
            reached = np.cumsum(row[clips], dtype=np.int64)
            if total := int(reached[-1]):
                middle = np.searchsorted(reached, [(total - 1) // 2, total // 2], side="right")
                found[drawing] = values[middle].mean()
        return found


@dataclass(frozen=True, slots=True, eq=False)
class ClassPrecision:
    """Mean average precision over classes: ``scores`` and ``relevant`` ``[classes, m]``, of the clips ``clips [m]``.

    Of each class over all these clips, without interpolation; a class of which none was drawn is left out of the mean.
    """

    scores: Scores
    relevant: Relevance
    clips: Integers

    @property
    def count(self) -> int:
        """See ``Statistic.count``: the clips."""
        return len(self.clips)

    def under(self, weights: Integers) -> Floats:
        """See ``Statistic.under``."""
        sums, counts = np.zeros(len(weights)), np.zeros(len(weights))
        for order, relevant in zip(ranked_order(self.scores, self.relevant), self.relevant, strict=True):
            for drawing, row in enumerate(weights[:, self.clips[order]]):
                places = np.flatnonzero(np.repeat(relevant[order], row)) + 1  # a clip drawn twice stands there twice
                if len(places):
                    sums[drawing] += (np.arange(1, len(places) + 1) / places).mean()
                    counts[drawing] += 1
        with np.errstate(invalid="ignore"):
            return sums / counts


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its 95 % bootstrap interval (percentiles: Efron & Tibshirani 1993, section 13.3)."""

    value: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether 0 lies outside: of a difference, that it is one."""
        return self.low > 0 or self.high < 0


def drawings(clips: int) -> Integers:
    """How often each clip is in each drawing, ``[ROUNDS, clips]``; always the same for so many clips."""
    return np.random.default_rng(SEED).multinomial(clips, np.full(clips, 1 / clips), ROUNDS).astype(np.int32)


def measured(statistic: Statistic, weights: Integers) -> Interval:
    """A statistic of all clips, with its interval over the drawings ``weights [rounds, clips]``."""
    return _interval(*(statistic.under(w) for w in (_all(weights), weights)))


def difference(ours: Statistic, theirs: Statistic, weights: Integers) -> Interval:
    """``theirs`` less ``ours``, with the interval of that difference: both under the same drawings."""
    return _interval(*(theirs.under(w) - ours.under(w) for w in (_all(weights), weights)))


def _all(weights: Integers) -> Integers:
    return np.ones((1, weights.shape[1]), np.int32)


def _interval(value: Floats, drawn: Floats) -> Interval:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(float(value[0]), float(low), float(high))


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """Clips as a bundle hears them: ``vectors [windows, dim]`` of all, the first of each clip at ``starts [clips]``."""

    vectors: FloatArray
    starts: Integers

    @classmethod
    def of(cls, heard: Sequence[FloatArray]) -> Heard:
        """Each clip's ``[windows, dim]``, at least one window."""
        counts = [len(vectors) for vectors in heard]
        return cls(np.concatenate(heard), np.append(0, np.cumsum(counts)[:-1]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.starts)

    def scores(self, texts: FloatArray) -> FloatArray:
        """``[texts, dim]`` -> ``[texts, clips]``: each clip's best window's cosine, as the engine scores it.

        To six decimals: where two clips are the same, the rounding of a product must not choose between them.
        """
        best = np.maximum.reduceat(texts @ self.vectors.T, self.starts, axis=1)
        return np.asarray(best.round(_DECIMALS), np.float32)

    def part(self, first: int, last: int) -> Heard:
        """The clips ``first`` to before ``last``."""
        ends = np.append(self.starts, len(self.vectors))
        return Heard(self.vectors[ends[first] : ends[last]], self.starts[first:last] - ends[first])

    def pooled(self) -> FloatArray:
        """``[clips, dim]``: the mean of each clip's windows, L2-normalised."""
        sums = np.add.reduceat(self.vectors.astype(np.float64), self.starts, axis=0)
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """Where right answers stand, from 1: ``clips [texts]`` says whose each text is.

    ``to_audio [texts]``: the rank of a text's clip among all clips. ``to_text [texts]``: the rank that its clip gives
    a text among the texts of other clips; the clip's other texts are no rivals. Equal scores go against us.
    """

    clips: Integers
    to_audio: Floats
    to_text: Floats

    @classmethod
    def of(cls, texts: FloatArray, clips: Integers, heard: Heard) -> Ranks:
        """``texts [n, dim]`` and whose they are ``[n]``, a bounded number of cosines at a time."""
        return cls(clips, _audio_ranks(texts, clips, heard), _text_ranks(texts, clips, heard))

    def measures(self) -> dict[tuple[str, str, str], Statistic]:
        """Everything asked of them, by task, convention and measure.

        Of several texts of one clip, convention ``mean`` takes each as a query, or as the one right answer, of its own;
        ``any`` takes the clip's best, so that any of them will do. Both are the same where each clip has one.
        """
        several = len(np.unique(self.clips)) < len(self.clips)
        found: dict[tuple[str, str, str], Statistic] = {}
        for task, ranks in (("text-to-audio", self.to_audio), ("audio-to-text", self.to_text)):
            found |= _by_rank(task, "mean" if several else "", ranks, self.clips)
            if several:
                clips = np.unique(self.clips)
                best = np.full(int(clips[-1]) + 1, np.inf)
                np.minimum.at(best, self.clips, ranks)
                found |= _by_rank(task, "any", best[clips], clips)
        if several:  # several right answers to one question: the precision at each of them
            found["audio-to-text", "any", "mAP@10"] = self._several_right(10)
        return found

    def _several_right(self, k: int) -> Mean:
        """AP@k of a clip's texts among all texts, as ``metrics.average_precision_at`` has it."""
        clips = np.unique(self.clips)
        values = np.empty(len(clips))
        for number, clip in enumerate(clips):
            alone = np.sort(self.to_text[self.clips == clip])
            place = np.arange(len(alone))
            precision = (place + 1) / (alone + place)  # those of its own that come before take a place each
            values[number] = precision[alone + place <= k].sum() / min(k, len(alone))
        return Mean(values, clips)


def _by_rank(task: str, convention: str, ranks: Floats, clips: Integers) -> dict[tuple[str, str, str], Statistic]:
    found: dict[tuple[str, str, str], Statistic] = {
        (task, convention, f"R@{k}"): Mean((ranks <= k).astype(np.float64), clips) for k in (1, 5, 10)
    }
    found[task, convention, "mAP@10"] = Mean(np.where(ranks <= 10, 1 / ranks, 0.0), clips)
    found[task, convention, "median rank"] = Median(ranks, clips)
    return found


def _audio_ranks(texts: FloatArray, clips: Integers, heard: Heard) -> Floats:
    ranks = np.empty(len(texts))
    step = max(1, _MOST_COSINES // len(heard.vectors))
    for first in range(0, len(texts), step):
        scores = heard.scores(texts[first : first + step])
        own = np.take_along_axis(scores, clips[first : first + step, None], axis=1)
        ranks[first : first + step] = (scores >= own).sum(axis=1)  # itself is the 1
    return ranks


def _text_ranks(texts: FloatArray, clips: Integers, heard: Heard) -> Floats:
    ranks = np.empty(len(texts))
    asked = np.unique(clips)
    windows = np.diff(np.append(heard.starts, len(heard.vectors)))
    step = max(1, _MOST_COSINES // (len(texts) * int(windows.max())))
    for first in range(0, len(heard), step):
        here = asked[(asked >= first) & (asked < first + step)]
        if not len(here):
            continue
        scores = heard.part(first, min(first + step, len(heard))).scores(texts)
        for clip in here:
            ours = clips == clip
            column = scores[:, clip - first]
            ranks[ours] = 1 + (column[~ours, None] >= column[None, ours]).sum(axis=0)
    return ranks
