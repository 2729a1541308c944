"""Which pieces make a caption: greedy and beam search over any decoder that goes on from where it was.

The rules are those of ``transformers``' ``generate`` with ``early_stopping=False``, so that it can be compared with it
piece by piece: a clip ends when none of its running beams, at its present length, can beat the worst that has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.types import FloatArray

IntArray = NDArray[np.int64]
#: Log-probabilities and the pieces they are of, ``[clips, beams, k]`` each, likeliest first.
Candidates = tuple[FloatArray, IntArray]


class Steps(Protocol):
    """A decoder in the middle of its captions; it knows what each beam has said."""

    def begin(self, k: int) -> Candidates:
        """The k likeliest first pieces ``[clips, 1, k]``."""

    def advance(self, pieces: IntArray, parents: IntArray, k: int) -> Candidates:
        """Beam b goes on from beam ``parents[clip, b]`` with ``pieces[clip, b]``: what may come next."""

    def keep(self, clips: IntArray) -> None:
        """Forget the clips that are not among these numbers."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a caption is chosen.

    ``end`` ends it, as do ``max_tokens`` pieces, the end among them. A caption's score is the sum of its pieces'
    log-probabilities over its length to the power of ``length_penalty``. ``banned`` pieces are never said, and no run
    of ``no_repeat`` pieces twice (0: any may be).
    """

    end: int
    max_tokens: int
    beams: int = 5
    length_penalty: float = 1.0
    no_repeat: int = 0
    banned: frozenset[int] = frozenset()

    def k(self, length: int, wanted: int) -> int:
        """How many candidates to ask for after ``length`` pieces so that ``wanted`` of them may be said."""
        return wanted + len(self.banned) + (length if self.no_repeat else 0)

    def forbidden(self, said: Sequence[int]) -> set[int]:
        """The pieces that may not come next."""
        size = self.no_repeat
        if not size or len(said) < size - 1:
            return set(self.banned)
        tail = tuple(said[len(said) - size + 1 :])
        again = {said[at + size - 1] for at in range(len(said) - size + 1) if tuple(said[at : at + size - 1]) == tail}
        return again | self.banned


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Pieces said, without the end, and their score; for greedy search the mean log-probability."""

    pieces: tuple[int, ...]
    score: float


def beam_search(steps: Steps, clips: int, rules: Rules) -> list[list[Hypothesis]]:
    """For each clip its ``rules.beams`` best captions, best first."""
    searches = [_Beams(rules) for _ in range(clips)]
    alive = list(searches)
    wanted = 2 * rules.beams  # half of them may end
    scores, pieces = steps.begin(rules.k(0, wanted))
    for length in range(1, rules.max_tokens + 1):
        moves = [one.step(scores[number], pieces[number]) for number, one in enumerate(alive)]
        if all(one.done for one in alive):
            break
        # Dropping clips costs a copy of what is remembered of the others.
        if 2 * sum(not one.done for one in alive) <= len(alive):
            left = [number for number, one in enumerate(alive) if not one.done]
            steps.keep(np.array(left, np.int64))
            alive, moves = [alive[number] for number in left], [moves[number] for number in left]
        said, parents = (np.array([move[part] for move in moves], np.int64) for part in (0, 1))
        scores, pieces = steps.advance(said, parents, rules.k(length, wanted))
    return [one.best() for one in searches]


class _Beams:
    """The beams of one clip."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._said: list[tuple[int, ...]] = [()]
        self._scores = np.zeros(1, np.float32)
        self._ended: list[Hypothesis] = []
        self.done = False

    def step(self, scores: FloatArray, pieces: IntArray) -> tuple[list[int], list[int]]:
        """From candidates ``[beams, k]`` to the next piece of each beam and the beam that it goes on from."""
        rules, length = self._rules, len(self._said[0]) + 1
        chances = self._scores[:, None] + self._allowed(scores, pieces)
        best = np.argsort(-chances, axis=None, kind="stable")[: 2 * rules.beams]
        ended: list[Hypothesis] = []
        running: list[tuple[int, int, np.float32]] = []
        for rank, place in enumerate(best.tolist()):
            parent, column = divmod(place, chances.shape[1])
            piece, chance = int(pieces[parent, column]), chances[parent, column]
            if piece == rules.end or length == rules.max_tokens:
                if rank < rules.beams and np.isfinite(chance):
                    said = self._said[parent] + ((piece,) if piece != rules.end else ())
                    ended.append(Hypothesis(said, float(chance / np.float32(length**rules.length_penalty))))
            elif len(running) < rules.beams:
                running.append((piece, parent, chance))
        if not self.done:
            # Of equal scores the one that ended first stays.
            self._ended = sorted([*self._ended, *ended], key=lambda one: -one.score)[: rules.beams]
        if not running:
            self.done = True
            return [rules.end] * rules.beams, [0] * rules.beams
        said, parents = [piece for piece, _, _ in running], [parent for _, parent, _ in running]
        self._said = [(*self._said[parent], piece) for piece, parent in zip(said, parents, strict=True)]
        self._scores = np.array([chance for _, _, chance in running], np.float32)
        self.done = self.done or self._cannot_improve(length)
        return said, parents

    def best(self) -> list[Hypothesis]:
        """The captions that have ended, best first; those that run on where none has."""
        if self._ended:
            return self._ended
        return [Hypothesis(said, float(score)) for said, score in zip(self._said, self._scores, strict=True)]

    def _allowed(self, scores: FloatArray, pieces: IntArray) -> FloatArray:
        """``scores [beams, k]`` with what the rules forbid at minus infinity."""
        if not (self._rules.banned or self._rules.no_repeat):
            return scores
        allowed = scores.copy()
        for row, (said, candidates) in enumerate(zip(self._said, pieces.tolist(), strict=True)):
            forbidden = self._rules.forbidden(said)
            for column, piece in enumerate(candidates):
                if piece in forbidden:
                    allowed[row, column] = -np.inf
        return allowed

    def _cannot_improve(self, length: int) -> bool:
        if len(self._ended) < self._rules.beams:
            return False
        return float(self._scores[0] / np.float32(length**self._rules.length_penalty)) <= self._ended[-1].score


def greedy_search(steps: Steps, clips: int, rules: Rules) -> list[Hypothesis]:
    """For each clip the caption whose every piece is the likeliest."""
    said: list[list[int]] = [[] for _ in range(clips)]
    totals, lengths = np.zeros(clips, np.float32), np.zeros(clips, np.int64)
    alive = list(range(clips))
    scores, pieces = steps.begin(rules.k(0, 1))
    for length in range(1, rules.max_tokens + 1):
        nexts, left = [], []
        for number, clip in enumerate(alive):
            piece, score = _likeliest(scores[number, 0], pieces[number, 0], rules.forbidden(said[clip]))
            totals[clip] += score
            lengths[clip] += 1
            if piece != rules.end:
                said[clip].append(piece)
                nexts.append(piece)
                left.append(number)
        if not left or length == rules.max_tokens:
            break
        if len(left) < len(alive):
            steps.keep(np.array(left, np.int64))
            alive = [alive[number] for number in left]
        column = np.array(nexts, np.int64)[:, None]
        scores, pieces = steps.advance(column, np.zeros_like(column), rules.k(length, 1))
    means = totals / np.maximum(lengths, 1) ** rules.length_penalty
    return [Hypothesis(tuple(one), float(mean)) for one, mean in zip(said, means, strict=True)]


def _likeliest(scores: FloatArray, pieces: IntArray, forbidden: set[int]) -> tuple[int, float]:
    """The first candidate that may be said."""
    for piece, score in zip(pieces.tolist(), scores.tolist(), strict=True):
        if piece not in forbidden:
            return piece, score
    raise AssertionError("more candidates are asked for than may be forbidden")
