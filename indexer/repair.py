"""A memory and a ledger made to agree after damage: every point is read, and a ledger is rebuilt from what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from engine.errors import DamagedMemoryError
from engine.memory.base import Memory
from engine.types import Record, point_id
from indexer.ledger import Ledger, Remembered
from indexer.paths import text_path
from indexer.payload import of_contents

#: How far a remembered vector's length may be from 1: they are kept in 32 bits.
_UNIT_TOLERANCE = 1e-3
#: So many points take about a second to read. Ids are hashes, so the first ones lie strewn over the whole store.
_SAMPLE = 10_000


@dataclass(slots=True)
class Reading:
    """What was seen while every point was read: how many were sound, and how many were not."""

    space_id: str
    windows: int = 0
    unsound: int = 0

    def sound(self, memory: Memory) -> Iterator[Record]:
        """Every point that is as it was written; the others are only counted. Bounded memory."""
        for record in memory.scroll(with_vectors=True):
            if self._is_sound(record):
                self.windows += 1
                yield record
            else:
                self.unsound += 1

    def _is_sound(self, record: Record) -> bool:
        said, vector = record.payload, record.vector
        sha256, window, paths = said.get("sha256"), said.get("window"), said.get("paths")
        if not (isinstance(sha256, str) and isinstance(window, int) and isinstance(paths, list) and paths):
            return False
        if vector is None or not abs(float(np.linalg.norm(vector.astype(np.float64))) - 1) <= _UNIT_TOLERANCE:
            return False
        return record.id == point_id(sha256, self.space_id, window) and isinstance(said.get("end_s"), float | int)


def sample(memory: Memory, space_id: str) -> None:
    """Read points with their vectors, at most 10,000. Raises ``DamagedMemoryError`` unless all are as written."""
    reading = Reading(space_id)
    for _ in islice(reading.sound(memory), _SAMPLE):
        if reading.unsound:
            break
    if reading.unsound:
        raise DamagedMemoryError(
            "damaged windows in the memory",
            "each with a vector of length 1 and what was written with it",
            "`earshot repair` finds them, then `earshot index` hears their sounds again",
        )


def compare(memory: Memory, ledger: Ledger, space_id: str) -> tuple[Reading, int]:
    """Read every point once and tell the ledger what is lost; returns what was seen and how many contents are lost.

    Their files are heard again by the next run. Raises ``MemoryStoreError`` if the memory can't be read.
    """
    reading = Reading(space_id)
    lost = ledger.disown_lost(str(record.payload["sha256"]) for record in reading.sound(memory))
    _check_index(memory, ledger)
    return reading, lost


def rebuild(memory: Memory, ledger: Ledger, space_id: str) -> tuple[Reading, int]:
    """Fill an empty ledger from the points of a memory: contents that are whole, and their paths.

    Sizes and times of files are in no memory: the next run reads each file once and knows it by its content. What is
    not whole is left to be removed, and heard again. Returns what was seen and how many contents are lost.
    Raises ``MemoryStoreError`` if the memory can't be read.
    """
    reading = Reading(space_id)
    lost = ledger.rebuild(_remembered(record) for record in reading.sound(memory))
    _check_index(memory, ledger)
    return reading, lost


def _check_index(memory: Memory, ledger: Ledger) -> None:
    """Raise ``DamagedMemoryError`` if windows that are there are not found by their content, as all writing does."""
    for contents in ledger.contents():
        expected = sum(windows for _, windows in contents)
        found = memory.count(of_contents(*(sha256 for sha256, _ in contents)))
        if found != expected:
            raise DamagedMemoryError(
                f"{found} windows by an index of the memory", f"{expected}", "`earshot repair` looks at all of it"
            )


def _remembered(record: Record) -> Remembered:
    said = record.payload
    duration_s = said.get("duration_s")
    paths = [text_path(path) for path in said["paths"]] if said["window"] == 0 else []
    return Remembered(said["sha256"], said["window"], float(said["end_s"]), duration_s, paths)
