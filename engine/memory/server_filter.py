"""A filter in the words of a Qdrant server's client."""

from __future__ import annotations

import math
import sys

from qdrant_client import models

from engine.memory.base import fold
from engine.memory.checks import check_filter
from engine.memory.folding import stored_key
from engine.types import Clause, Filter

_NOT = {"!=", "not in"}


def server_filter(where: Filter | None) -> models.Filter:
    """The filter that matches the same points; all, where there is none. Raises ``QueryError``."""
    check_filter(where)
    clauses = where.clauses if where else ()
    return models.Filter(
        must=[_condition(clause) for clause in clauses if clause.op not in _NOT],
        must_not=[_condition(clause) for clause in clauses if clause.op in _NOT],
    )


def _condition(clause: Clause) -> models.FieldCondition:
    """What the clause asks for; for ``!=`` and ``not in``, what it denies."""
    key, value = stored_key(clause), clause.value
    if isinstance(value, int | float):
        return models.FieldCondition(key=key, range=_range(clause.op, float(value)))
    if not isinstance(value, str):
        return models.FieldCondition(key=key, match=models.MatchAny(any=list(value)))
    text = fold(value) if key != clause.field else value
    match = models.MatchSubstring(substring=text) if clause.op == "~" else models.MatchValue(value=text)
    return models.FieldCondition(key=key, match=match)


def _range(op: str, value: float) -> models.Range:
    """JSON has no infinity; as payloads are finite, all numbers or none are on its near side."""
    if math.isinf(value):
        is_all = op in ("<", "<=") if value > 0 else op in (">", ">=")
        return models.Range(lte=sys.float_info.max) if is_all else models.Range(gt=sys.float_info.max)
    if op == "<":
        return models.Range(lt=value)
    if op == "<=":
        return models.Range(lte=value)
    if op == ">":
        return models.Range(gt=value)
    if op == ">=":
        return models.Range(gte=value)
    return models.Range(gte=value, lte=value)
