"""What both Qdrant memories have in common: how the graph is built, what is indexed, how ties are seen to their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from engine.errors import DamagedMemoryError
from engine.memory.base import CAPTION_FIELDS, FIELDS
from engine.memory.folding import folded_key, stored_key
from engine.types import Filter, Hit

# Measured at 100,000 x 384 (benchmarks/bench_memory.py); 12 links lose recall under filters, 128 candidates in building
# gain none.
LINKS, BUILD_BREADTH, SEARCH_BREADTH = 16, 100, 128
#: Below this many points brute force takes a few milliseconds, is exact, and spares the building of a graph.
INDEX_FROM_POINTS = 20_000
#: A cosine of vectors kept in 32 bits is no further from 0; what is has been computed from damaged ones.
MOST_SCORE = 1.001
#: A filter that leaves fewer points than this is answered by brute force over them.
SCAN_BELOW_POINTS = 10_000


def indexed(fields: Mapping[str, type]) -> dict[str, type]:
    """The payload keys that have an index, as they are stored, and the kind of their values."""
    return {folded_key(field) if kind is str else field: kind for field, kind in fields.items()}


_INDEXED_SOMEWHERE = indexed(FIELDS | CAPTION_FIELDS)


def must_scan(where: Filter) -> bool:
    """Whether every point has to be checked, because Qdrant can't estimate how many match."""
    return any(clause.op == "~" or stored_key(clause) not in _INDEXED_SOMEWHERE for clause in where.clauses)


def best_hits(
    k: int,
    wheres: Sequence[Filter],
    ask: Callable[[int, list[Filter]], Sequence[list[Hit]]],
    most_score: float = MOST_SCORE,
) -> list[list[Hit]]:
    """The k best points for each filter, best first, ties by id; ``ask(limit, filters)`` answers in any order of ties.

    Qdrant cuts a run of equal scores anywhere. So one point more than k is asked for, and more again until the run
    that reaches over the k-th place is seen to its end. Raises ``DamagedMemoryError`` for a score above ``most_score``
    or below its negative, which is none.
    """
    best: list[list[Hit]] = [[] for _ in wheres]
    open_ends = list(range(len(wheres)))
    limit = k + 1
    while open_ends:
        for i, found in zip(open_ends, ask(limit, [wheres[i] for i in open_ends]), strict=True):
            _check_scores(found, most_score)
            best[i] = found
        open_ends = [i for i in open_ends if len(best[i]) == limit and best[i][k - 1].score == best[i][-1].score]
        limit *= 4
    return [sorted(found, key=lambda hit: (-hit.score, hit.id))[:k] for found in best]


def _check_scores(hits: Sequence[Hit], most_score: float) -> None:
    for hit in hits:
        if not abs(hit.score) <= most_score:  # NaN is not, either
            raise DamagedMemoryError(
                f"a cosine of {hit.score:g} at the point {hit.id}",
                "one from -1 to 1",
                "vectors are damaged: `earshot repair` finds them, then `earshot index` hears their sounds again",
            )
