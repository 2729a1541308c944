"""A filter in Qdrant's words."""

from __future__ import annotations

import qdrant_edge as qdrant

from engine.memory.base import fold
from engine.memory.folding import stored_key
from engine.types import Clause, Filter

_NOT = {"!=", "not in"}


def edge_filter(where: Filter) -> qdrant.Filter:
    """The Qdrant filter that matches the same points. ``where`` must have passed ``check_filter``."""
    return qdrant.Filter(
        must=[_condition(clause) for clause in where.clauses if clause.op not in _NOT],
        must_not=[_condition(clause) for clause in where.clauses if clause.op in _NOT],
    )


def _condition(clause: Clause) -> qdrant.FieldCondition:
    """What the clause asks for; for ``!=`` and ``not in``, what it denies."""
    key, value = stored_key(clause), clause.value
    if isinstance(value, int | float):
        return qdrant.FieldCondition(key=key, range=_range(clause.op, float(value)))
    if not isinstance(value, str):
        return qdrant.FieldCondition(key=key, match=qdrant.MatchAny(list(value)))
    text = fold(value) if key != clause.field else value
    match = qdrant.MatchSubstring(text) if clause.op == "~" else qdrant.MatchValue(text)
    return qdrant.FieldCondition(key=key, match=match)


def _range(op: str, value: float) -> qdrant.RangeFloat:
    if op == "<":
        return qdrant.RangeFloat(lt=value)
    if op == "<=":
        return qdrant.RangeFloat(lte=value)
    if op == ">":
        return qdrant.RangeFloat(gt=value)
    if op == ">=":
        return qdrant.RangeFloat(gte=value)
    return qdrant.RangeFloat(gte=value, lte=value)
