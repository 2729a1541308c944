"""The caption graphs of a bundle, run step by step: the prefix once a clip, then a piece a beam.

All beams of a clip share one pool of keys and values that only grows. Nothing in it moves when beams part or end: each
beam has a mask of the columns that are its own past.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.beams import Candidates, IntArray
from engine.session import KeepingSession
from engine.types import FloatArray


class CachedSteps:
    """Implements ``beams.Steps`` on the decoder's graph (its inputs: ``exporters.captiongraph``).

    ``prefix [clips, p, width]``, ``start``: the piece of the caption's language.
    """

    def __init__(self, session: KeepingSession, prefix: FloatArray, start: int, pieces: int) -> None:
        self._session, self._prefix, self._pieces = session, prefix, pieces
        self._start = np.full((len(prefix), 1), start, np.int64)
        self._seen: NDArray[np.bool_] = np.zeros((len(prefix), 1, 0), bool)
        self._place = 0

    def begin(self, k: int) -> Candidates:
        """The k likeliest first pieces ``[clips, 1, k]``."""
        clips, p, _ = self._prefix.shape
        self._seen = np.ones((clips, 1, p + 1), bool)
        self._place = p + 1
        back = np.broadcast_to(np.tril(np.ones((p + 1, p + 1), bool)), (clips, p + 1, p + 1))
        self._session.forget(clips)
        return self._run(self._prefix, self._start, np.arange(p + 1), back, k)

    def advance(self, pieces: IntArray, parents: IntArray, k: int) -> Candidates:
        """Beam b goes on from beam ``parents[clip, b]`` with ``pieces[clip, b]``: what may come next."""
        clips, beams = pieces.shape
        past = np.take_along_axis(self._seen, parents[:, :, None], axis=1)
        own = np.broadcast_to(np.eye(beams, dtype=bool), (clips, beams, beams))
        self._seen = np.concatenate([past, own], axis=2)
        nothing = self._prefix[:clips, :0]
        found = self._run(nothing, pieces, np.full(beams, self._place), self._seen, k)
        self._place += 1
        return found

    def keep(self, clips: IntArray) -> None:
        """Forget the clips that are not among these numbers."""
        self._seen = self._seen[clips]
        self._session.keep_rows(clips)

    def _run(
        self, prefix: FloatArray, ids: IntArray, positions: IntArray, seen: NDArray[np.bool_], k: int
    ) -> Candidates:
        feeds: dict[str, NDArray[Any]] = {
            "prefix": prefix,
            "ids": ids,
            "positions": positions.astype(np.int64),
            "mask": np.where(seen, np.float32(0), np.float32(-np.inf)),
            "k": np.array([min(k, self._pieces)], np.int64),
        }
        scores, tokens = self._session.run(feeds, ("scores", "tokens"))
        return scores, tokens
