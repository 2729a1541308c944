"""Folded copies of texts, for stores whose own text filters compare byte for byte.

A store keeps, beside each text ``title``, a copy ``folded__title`` that its filters look at. The copies never leave it.
"""

from __future__ import annotations

from typing import Any

from engine.memory.base import IDENTIFIERS, fold
from engine.memory.checks import FOLDED
from engine.types import Clause, Payload


def folded_key(field: str) -> str:
    """The key whose text answers ``=``, ``!=`` and ``~`` on this field."""
    return field if field in IDENTIFIERS else FOLDED + field


def stored_key(clause: Clause) -> str:
    """The payload key that answers this clause: the folded copy for texts, the field itself for all else."""
    return folded_key(clause.field) if isinstance(clause.value, str) else clause.field


def with_folded(payload: Payload) -> dict[str, Any]:
    """The payload as it is stored, with a folded copy of each text; ``None`` where the value is not text.

    So writing it over an older payload never leaves a copy of a text that is gone.
    """
    stored = dict(payload)
    for key, value in payload.items():
        if key not in IDENTIFIERS:
            stored[FOLDED + key] = _folded(value)
    return stored


def without_folded(stored: Payload) -> dict[str, Any]:
    """The payload as it was given, from the payload as it is stored."""
    return {key: value for key, value in stored.items() if not key.startswith(FOLDED)}


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, list | tuple):
        return [fold(item) for item in value if isinstance(item, str)] or None
    return None
