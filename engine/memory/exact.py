"""The oracle: every vector in RAM, every answer computed in full. Slow and obvious on purpose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from engine.errors import MemoryStoreError, SpaceMismatchError
from engine.memory.checks import check_filter, check_k, check_payload, check_points, check_vector
from engine.memory.keywords import bm25, document
from engine.memory.matching import matches
from engine.types import Filter, FloatArray, Hit, Payload, Point, Record


class ExactMemory:
    """A ``Memory`` of Python dictionaries and numpy: nothing is persisted, nothing is approximate."""

    def __init__(self) -> None:
        self.shared = False
        self._space: tuple[str, int] | None = None
        self._closed = False
        self._vectors: dict[str, FloatArray] = {}
        self._payloads: dict[str, Payload] = {}

    def ensure_space(self, space_id: str, dim: int) -> None:
        """See ``Memory.ensure_space``."""
        if self._closed:
            raise MemoryStoreError("a closed memory", "an open one", "open it again")
        if self._space not in (None, (space_id, dim)):
            found, known = self._space or ("", 0)
            raise SpaceMismatchError(f"a memory of {found} ({known} numbers)", f"{space_id} ({dim} numbers)")
        self._space = (space_id, dim)

    def upsert(self, points: Sequence[Point]) -> None:
        """See ``Memory.upsert``."""
        check_points(points, self._dim())
        for point in points:
            self._vectors[point.id] = _unit(point.vector)
            self._payloads[point.id] = _copied(point.payload)

    def insert(self, points: Sequence[Point]) -> None:
        """See ``CommonMemory.insert``."""
        check_points(points, self._dim())
        first = {point.id: point for point in reversed(points)}
        self.upsert([point for point in first.values() if point.id not in self._vectors])

    def delete(self, where: Filter) -> None:
        """See ``Memory.delete``."""
        if not where:
            raise ValueError("an empty filter would delete everything")
        for point_id in self._matching(where):
            del self._vectors[point_id], self._payloads[point_id]

    def set_payload(self, where: Filter, payload: Payload) -> None:
        """See ``Memory.set_payload``."""
        check_payload(payload, "set_payload")
        for point_id in self._matching(where):
            self._payloads[point_id] = _copied({**self._payloads[point_id], **payload})

    def search(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search``."""
        check_k(k)
        check_vector(vector, self._dim(), "the query")
        query = _unit(vector)
        scores = {point_id: float(self._vectors[point_id] @ query) for point_id in self._matching(where)}
        best = sorted(scores, key=lambda point_id: (-scores[point_id], point_id))[:k]
        return [Hit(point_id, scores[point_id], _copied(self._payloads[point_id])) for point_id in best]

    def search_many(self, vector: FloatArray, k: int, wheres: Sequence[Filter]) -> list[list[Hit]]:
        """See ``Memory.search_many``."""
        check_k(k)
        check_vector(vector, self._dim(), "the query")
        return [self.search(vector, k, where) for where in wheres]

    def search_vectors(self, vector: FloatArray, k: int, where: Filter | None = None) -> list[tuple[Hit, FloatArray]]:
        """See ``Memory.search_vectors``."""
        return [(hit, self._vectors[hit.id].copy()) for hit in self.search(vector, k, where)]

    def search_words(self, words: str, k: int, where: Filter | None = None) -> list[Hit]:
        """See ``Memory.search_words``."""
        check_k(k)
        scores = bm25(words, {point_id: document(payload) for point_id, payload in self._payloads.items()})
        found = [point_id for point_id in self._matching(where) if point_id in scores]
        best = sorted(found, key=lambda point_id: (-scores[point_id], point_id))[:k]
        return [Hit(point_id, scores[point_id], _copied(self._payloads[point_id])) for point_id in best]

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        """See ``Memory.scroll``."""
        return iter(
            [
                Record(i, _copied(self._payloads[i]), self._vectors[i].copy() if with_vectors else None)
                for i in self._matching(where)
            ]
        )

    def count(self, where: Filter | None = None) -> int:
        """See ``Memory.count``."""
        return len(self._matching(where))

    def optimise(self) -> None:
        """Nothing to build."""
        self._dim()

    def flush(self) -> None:
        """Nothing to write."""
        self._dim()

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self._vectors.clear()
        self._payloads.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _dim(self) -> int:
        if self._closed or self._space is None:
            found = "a closed memory" if self._closed else "a memory without a space"
            raise MemoryStoreError(found, "an open one", "call ensure_space on a new memory first")
        return self._space[1]

    def _matching(self, where: Filter | None) -> list[str]:
        """The ids of all points that match, in order."""
        self._dim()
        check_filter(where)
        return sorted(point_id for point_id, payload in self._payloads.items() if matches(payload, where))


def _unit(vector: FloatArray) -> FloatArray:
    """The vector at length 1; a zero vector stays zero, so its cosine with anything is 0."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return vector / np.float32(length) if length > 0 else vector.copy()


def _copied(payload: Payload) -> Payload:
    """A payload that shares nothing with the caller's, and holds no ``None``."""
    copy = {key: list(value) if isinstance(value, list | tuple) else value for key, value in payload.items()}
    return {key: value for key, value in copy.items() if value is not None}
