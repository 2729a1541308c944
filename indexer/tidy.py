"""What keeps a memory true besides hearing: losses noticed, files that are gone forgotten, leftovers removed.

Every step may be killed: the ledger is told before vectors are removed and after paths are set, never between.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from engine.errors import LibraryError
from engine.memory.base import Memory
from indexer.ledger import FileRow, Ledger
from indexer.paths import is_gone
from indexer.payload import of_contents, places_payload
from indexer.scan import absolute

DELETE_AT_ONCE = 256
FORGET_AT_ONCE = 1000
#: More of the known files than this are seldom deleted at once; a disk that is away takes them all.
MOST_GONE = 0.2
_ANYWAY = "nothing was forgotten: mount what is away, or, if they are gone for good, add --prune-anyway"


def mend(memory: Memory, ledger: Ledger) -> int:
    """Make memory and ledger agree before a run; returns how many contents the memory had lost, wholly or in part.

    Their files count as failed until a run hears them again. What an interrupted or killed run left is removed.
    """
    remove_orphans(memory, ledger)
    if memory.count() == ledger.totals().windows:
        return 0
    lost = ledger.disown_lost(str(record.payload["sha256"]) for record in memory.scroll())
    remove_orphans(memory, ledger)
    return lost


def remove_orphans(memory: Memory, ledger: Ledger) -> None:
    """Remove the vectors that no file holds: of replaced and forgotten files, and of files not heard to their end."""
    while orphans := ledger.orphans(DELETE_AT_ONCE):
        ledger.mark_pending(orphans)  # from here on they are not whole any more
        memory.delete(of_contents(*orphans))
        memory.flush()
        with ledger.transaction():
            ledger.drop_contents(orphans)


def present_roots(roots: Sequence[Path], ledger: Ledger, anyway: bool) -> list[Path]:
    """The roots to be scanned by a run that prunes: with ``anyway``, without those missing of which files are known.

    Raises ``LibraryError`` for such a root otherwise: a disk that is not mounted looks the same.
    """
    present = []
    for root in roots:
        path = Path(absolute(root))
        if not is_gone(path) or next(ledger.files_under(path), None) is None:
            present.append(root)  # of a root that nobody knows, the scan says that it is missing
        elif not anyway:
            raise LibraryError(f"no {path}, of which files are known", "it there", _ANYWAY)
    return present


def doubt(roots: Sequence[Path], ledger: Ledger) -> str | None:
    """Why the files below ``roots`` that are gone may only seem gone, if so; files never heard don't count.

    That is where all below a root are gone; where several are, and what is left of their folders is an empty one, as
    an empty mount point is; and where more than a fifth of all are gone, and not just one.
    """
    known, gone = 0, Counter[Path]()
    for root in roots:
        known_here, gone_here = _gone_below(Path(absolute(root)), ledger)
        if known_here and gone_here.total() == known_here:
            return _refusal(f"all {known_here} known files below {absolute(root)} gone", "some there")
        for folder, files in _emptied(gone_here):
            found = f"an empty folder {folder}, of which {files} files are known"
            return _refusal(found, "files in it, or no such folder")
        known += known_here
        gone.update(gone_here)
    if gone.total() > 1 and gone.total() > MOST_GONE * known:
        found = f"{gone.total()} of {known} known files gone, all below {os.path.commonpath(gone)}"
        return _refusal(found, f"at most {MOST_GONE:.0%} gone at once")
    return None


def _refusal(found: str, expected: str) -> str:
    return str(LibraryError(found, expected, _ANYWAY))


def _gone_below(root: Path, ledger: Ledger) -> tuple[int, Counter[Path]]:
    """How many files are known below a root, and how many of them are gone from which folder."""
    known, gone = 0, Counter[Path]()
    for row in ledger.files_under(root):
        if row.sha256 is not None:
            known += 1
            if is_gone(row.path):
                gone[row.path.parent] += 1
    return known, gone


def _emptied(gone: Counter[Path]) -> list[tuple[Path, int]]:
    """The empty folders that are left of those from which several files are gone, and how many."""
    left = Counter[Path]()
    for folder, files in gone.items():
        while is_gone(folder):
            folder = folder.parent
        left[folder] += files
    return [(folder, files) for folder, files in left.items() if files > 1 and _is_empty(folder)]


def _is_empty(folder: Path) -> bool:
    """Whether it is a folder, with nothing in it."""
    try:
        return next(folder.iterdir(), None) is None
    except OSError:
        return False


def prune(roots: Sequence[Path], memory: Memory, ledger: Ledger) -> int:
    """Forget the files below ``roots`` that are gone; returns how many. Their vectors are orphans then."""
    pruned = 0
    for root in roots:
        gone = (row for row in ledger.files_under(Path(absolute(root))) if is_gone(row.path))
        while rows := list(islice(gone, FORGET_AT_ONCE)):
            forget(rows, memory, ledger)
            pruned += len(rows)
    return pruned


def forget(rows: Sequence[FileRow], memory: Memory, ledger: Ledger) -> None:
    """Forget these files; contents that have no other become orphans."""
    gone = {row.path for row in rows}
    is_shared = False
    for sha256 in dict.fromkeys(row.sha256 for row in rows if row.sha256):
        if rest := [path for path in ledger.paths_of(sha256) if path not in gone]:
            memory.set_payload(of_contents(sha256), places_payload(rest))
            is_shared = True
    if is_shared:
        memory.flush()
    with ledger.transaction():
        for path in gone:
            ledger.forget_path(path)
