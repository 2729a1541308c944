"""What may enter a memory: one set of checks at the door of every implementation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.errors import MemoryStoreError, QueryError
from engine.types import Clause, Filter, FloatArray, Payload, Point

#: Fields with this prefix hold a memory's own folded copies of texts.
FOLDED = "folded__"

#: More hits than anyone reads; the stores count in 64 bits, and would reserve room for all that were asked for.
MOST_HITS = 1_000_000

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(r"[a-z][a-z0-9_]*")


def check_points(points: Sequence[Point], dim: int) -> None:
    """Raise ``MemoryStoreError`` for the first point that can't be stored in a space of ``dim`` numbers."""
    for point in points:
        check_id(point.id)
        if point.vector.shape != (dim,) or point.vector.dtype != np.float32:
            check_vector(point.vector, dim, f"the vector of point {point.id}")
        check_payload(point.payload, f"point {point.id}")
    if points and not np.isfinite(np.stack([point.vector for point in points])).all():
        for point in points:
            check_vector(point.vector, dim, f"the vector of point {point.id}")


def check_id(point_id: str) -> None:
    """Raise ``MemoryStoreError`` unless this is a UUID as ``str(uuid)`` writes it."""
    if not _ID.fullmatch(point_id):
        raise MemoryStoreError(f"the point id {point_id!r}", "a lower-case UUID", "make ids with engine.types.point_id")


def check_vector(vector: FloatArray, dim: int, name: str) -> None:
    """Raise ``MemoryStoreError`` unless ``vector`` is float32 ``[dim]`` and finite."""
    if vector.shape != (dim,) or vector.dtype != np.float32:
        found = f"{name} of shape {list(vector.shape)}, {vector.dtype}"
        raise MemoryStoreError(found, f"[{dim}], float32", "encode it with the bundle of this library")
    if not np.isfinite(vector).all():
        raise MemoryStoreError(f"NaN or infinity in {name}", "finite numbers", "check the sound and the bundle")


def check_payload(payload: Payload, owner: str) -> None:
    """Raise ``MemoryStoreError`` for a key or a value that can't be stored and filtered."""
    for key, value in payload.items():
        if not _KEY.fullmatch(key) or key.startswith(FOLDED):
            raise MemoryStoreError(f"the payload key {key!r} of {owner}", "lower-case letters, digits and _")
        if value is None:
            continue
        for item in value if isinstance(value, list | tuple) else (value,):
            if not _storable(item):
                found = f"{type(item).__name__} {item!r} under {key!r} of {owner}"
                raise MemoryStoreError(found, "valid Unicode text, a finite 64-bit number or a boolean")


def _storable(value: Any) -> bool:
    kind = type(value)
    if kind is str:
        # File names that are not UTF-8 reach Python with lone surrogates, which no store accepts.
        return bool(value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))
    if kind is float:
        return math.isfinite(value)
    return kind is bool or (kind is int and abs(value) < 2**63)


def check_k(k: int) -> None:
    """Raise ``ValueError`` for a negative number of hits, ``QueryError`` for one above ``MOST_HITS``."""
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")
    if k > MOST_HITS:
        raise QueryError(f"k = {k}", f"at most {MOST_HITS:,} hits", "ask for fewer")


def check_filter(where: Filter | None) -> None:
    """Raise ``QueryError`` for the first clause whose operator and value don't fit."""
    for clause in where.clauses if where else ():
        expected = _misfit(clause)
        if expected:
            raise QueryError(f"{clause.value!r} after {clause.field!r} {clause.op!r}", expected)
        if not _KEY.fullmatch(clause.field):
            raise QueryError(f"the field {clause.field!r}", "lower-case letters, digits and _")


def _misfit(clause: Clause) -> str:
    """What the clause's value should have been, or nothing where it fits."""
    value, op = clause.value, clause.op
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    is_text = isinstance(value, str) and _storable(value)
    if op in ("<", "<=", ">", ">="):
        return "" if is_number else "a number"
    if op in ("=", "!="):
        return "" if is_number or is_text else "text or a number"
    if op == "~":
        return "" if is_text else "text"
    if op in ("in", "not in"):
        if isinstance(value, str | int | float) or not all(isinstance(v, str) and _storable(v) for v in value):
            return "a list of texts"
        return ""
    return "one of the operators < <= > >= = != ~ in, not in"
