"""Kinds of everyday sounds among the training clips, to choose designs by: the dev split is for verdicts.

``recipes/held_kinds.tsv`` says by pattern which words of a clip's text make it one of a kind, and what a searcher
calls the kind in eight languages. A clip whose text is of several kinds is of none.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data import Row
from trainer.parallel import LANGUAGES

KINDS = Path(__file__).parent / "recipes" / "held_kinds.tsv"


@dataclass(frozen=True, slots=True)
class HeldKind:
    """One kind: ``pattern`` is searched in a clip's text, ``names`` are by language."""

    pattern: re.Pattern[str]
    names: dict[str, str]


def read_kinds(path: Path = KINDS) -> list[HeldKind]:
    """All kinds. Raises ``ValueError`` naming a line that is not whole."""
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    if tuple(header) != ("pattern", *LANGUAGES):
        raise ValueError(f"{path.name}: found the columns {header}, expected pattern and {list(LANGUAGES)}")
    for number, row in enumerate(rows, 2):
        if len(row) != len(header) or not all(row):
            raise ValueError(f"{path.name}, line {number}: found {row}, expected {len(header)} cells with text in each")
    return [HeldKind(re.compile(row[0]), dict(zip(LANGUAGES, row[1:], strict=True))) for row in rows]


def kinds_of(rows: Sequence[Row], kinds: Sequence[HeldKind]) -> NDArray[np.int64]:
    """Which kind each clip is of ``[rows]``: -1 for none, -2 for more than one."""
    found = []
    for row in rows:
        matching = [number for number, kind in enumerate(kinds) if kind.pattern.search(row.text)]
        found.append(matching[0] if len(matching) == 1 else -1 - bool(matching))
    return np.array(found, np.int64)
