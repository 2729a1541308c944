"""A library heard anew with another model: what is to be heard, and what the old memory alone will have.

The old ledger says which files there are; a ledger of the new space, beside it, which of them have been heard. So
what is new, moved or forgotten meanwhile is found by comparing the two again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from engine.memory.base import Memory
from indexer.ledger import FileRow, Ledger
from indexer.paths import is_gone
from indexer.scan import Found, LeftOut, listed, scan
from indexer.tidy import FORGET_AT_ONCE, doubt, forget, remove_orphans


def to_hear(known: Ledger, roots: Sequence[Path]) -> Iterator[Found | LeftOut]:
    """Every file of the ledger ``known`` that is there, then what is new under ``roots``.

    Raises ``LibraryError`` at the call for a root that is missing.
    """
    news = scan(roots)
    there = (listed(row.path) for row in known.files() if not is_gone(row.path))
    return chain(there, (item for item in news if isinstance(item, LeftOut) or known.file(item.path) is None))


def left_behind(known: Ledger, ledger: Ledger) -> list[Path]:
    """The files that are gone, so that only the old memory has their sound: ``ledger`` does not have its content."""
    return [row.path for row in known.files(failed=False) if is_gone(row.path) and not _has(ledger, row)]


def _has(ledger: Ledger, row: FileRow) -> bool:
    return row.sha256 is not None and ledger.is_indexed(row.sha256)


def refusal(known: Ledger, gone: Sequence[Path]) -> str | None:
    """Why files that are gone may only seem so, as those of a disk that is away do: then nothing should be switched."""
    return doubt([Path("/")], known) if gone else None


def forget_as(known: Ledger, memory: Memory, ledger: Ledger) -> int:
    """Forget in ``memory`` and ``ledger`` what is gone and ``known`` no longer has; returns how many files."""
    rows = (row for row in ledger.files() if known.file(row.path) is None and is_gone(row.path))
    forgotten = 0
    while some := list(islice(rows, FORGET_AT_ONCE)):
        forget(some, memory, ledger)
        forgotten += len(some)
    remove_orphans(memory, ledger)
    return forgotten
