"""What a filter means, in plain Python: the definition that every memory is tested against."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from engine.memory.base import IDENTIFIERS, fold
from engine.types import Clause, Filter, Payload

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.eq,
}


def matches(payload: Payload, where: Filter | None) -> bool:
    """Whether a point with this payload fulfils every clause; no filter is fulfilled by all."""
    return where is None or all(_holds(payload, clause) for clause in where.clauses)


def _holds(payload: Payload, clause: Clause) -> bool:
    found = payload.get(clause.field)
    values = found if isinstance(found, list | tuple) else [found]
    if clause.op in ("!=", "not in"):
        return not any(_is(value, clause) for value in values)
    return any(_is(value, clause) for value in values)


def _is(value: Any, clause: Clause) -> bool:
    """Whether one value fulfils the clause; for ``!=`` and ``not in``, what they deny."""
    wanted = clause.value
    if isinstance(value, str):
        if clause.op in ("in", "not in"):
            return not isinstance(wanted, float | int) and value in wanted
        if not isinstance(wanted, str):
            return False
        if clause.field not in IDENTIFIERS:
            value, wanted = fold(value), fold(wanted)
        return wanted in value if clause.op == "~" else bool(value == wanted)
    if isinstance(value, bool) or not isinstance(value, float | int) or not isinstance(wanted, float | int):
        return False
    return _COMPARE[clause.op](value, wanted)
