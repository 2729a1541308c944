"""`earshot repair`: a library examined to its last point, and made whole again from the half that is.

What is damaged is moved aside, into the folder ``damaged`` of the library, and never deleted. A ledger is rebuilt from
the memory; a memory can't be, so its sounds are marked to be heard again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from earshot.keep import Keep, keep_at
from earshot.limits import WAIT_S
from earshot.lock import LibraryLock, holder_of
from earshot.places import CAPTIONS, LEDGER, MEMORY, bundles_folder, expanded, no_library
from engine.bundle import known_bundles, open_bundle
from engine.errors import BundleError, DamagedLedgerError, DamagedMemoryError, LibraryBusyError
from engine.memory.base import Memory
from engine.memory.edge import EdgeMemory
from engine.types import Space
from indexer.ledger import Ledger
from indexer.repair import compare, rebuild

WHOLE, REBUILT, RENEWED, NAMED = "whole", "rebuilt", "empty", "named anew"


@dataclass(slots=True)
class Repaired:
    """What was found and done. ``lost`` counts the contents that were found to be lost just now, and ``waiting`` the
    sounds that are to be heard again, by `earshot index`; also those known to be lost from before.
    """

    ledger: str = WHOLE
    memory: str = WHOLE
    captions: str = WHOLE
    files: int = 0
    windows: int = 0
    unsound: int = 0
    lost: int = 0
    waiting: int = 0
    aside: str | None = None
    bundle: str | None = None

    @property
    def was_whole(self) -> bool:
        """Whether there was nothing to repair, and nothing to be heard again."""
        return {self.ledger, self.memory, self.captions} == {WHOLE} and self.is_whole

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to be heard again."""
        return self.memory != RENEWED and not (self.unsound or self.waiting)

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {"was_whole": self.was_whole, "is_whole": self.is_whole, **asdict(self)}


def repair(
    library: str | Path | None, bundle: str | None = None, on_wait: Callable[[str], None] = lambda _: None
) -> Repaired:
    """Examine a library, and repair it; of a server, what this machine holds, and its ledger.

    ``bundle`` is the one it was made with, where nothing says so any more. Raises ``LibraryError`` where there is no
    library, or one of a newer earshot; ``LibraryBusyError``; ``MemoryStoreError`` where the disk is at fault.
    """
    keep = keep_at(library)
    memory_folder = keep.folder / MEMORY
    if not (keep.exists() or memory_folder.exists()):
        raise no_library(keep.name)
    report, aside = Repaired(), _Aside(keep.folder)
    ledger = _open_ledger(keep.folder / LEDGER, aside)
    if ledger is None or (ledger.is_blank and memory_folder.exists()):
        report.ledger = REBUILT
    ledger = ledger or Ledger(keep.folder / LEDGER)
    try:
        space_id = _examine(keep, memory_folder, ledger, bundle, report, on_wait)
        if space_id is None and (memory_folder.exists() or ledger.totals().windows):  # gone, or can't be read
            if memory_folder.exists():
                aside.take(memory_folder)
            report.memory, report.lost = RENEWED, ledger.disown_lost(())
        _examine_captions(keep, aside, report)
        space_id = space_id or ledger.setting("space_id")
        report.bundle = _settle(ledger, space_id, bundle) if space_id else None
        report.files, report.waiting = ledger.totals().files, ledger.waiting()
        report.aside = aside.used
    finally:
        ledger.close()
        keep.close()
    return report


def _open_ledger(path: Path, aside: _Aside) -> Ledger | None:
    """The ledger if all of it can be read; a damaged one is moved aside. Raises for one of a newer earshot."""
    if not path.exists():
        return None
    ledger = None
    try:
        ledger = Ledger(path)
        ledger.check()
    except DamagedLedgerError:
        if ledger is not None:
            ledger.close()
        aside.take(path, *(path.with_name(path.name + end) for end in ("-wal", "-shm")))
        return None
    return ledger


def _examine(
    keep: Keep,
    memory_folder: Path,
    ledger: Ledger,
    bundle: str | None,
    report: Repaired,
    on_wait: Callable[[str], None],
) -> str | None:
    """Read every point, and make the ledger agree with what was read; returns the space, None for a damaged memory."""

    def nothing(_: Memory) -> None:
        """What a killed run left is removed by the next one: here nothing is deleted."""

    try:
        known = _known_space(keep, memory_folder, ledger, bundle, report)
        if known is None:
            return None
        with keep.writing(Space(*known, 0, 0.0, 0.0, "zero"), nothing, WAIT_S, on_wait) as memory:
            agree = rebuild if report.ledger == REBUILT else compare
            reading, report.lost = agree(memory, ledger, known[0])
    except DamagedMemoryError:
        keep.close()
        return None
    report.windows, report.unsound = reading.windows, reading.unsound
    return known[0]


def _examine_captions(keep: Keep, aside: _Aside, report: Repaired) -> None:
    """Read every caption that is remembered; damaged ones are moved aside: they are to be remembered again."""
    folder = keep.folder / CAPTIONS
    try:
        with keep.recalling() as captions:
            for record in captions.memory.scroll(with_vectors=True) if captions else ():
                if record.vector is None or "text" not in record.payload:
                    raise DamagedMemoryError(f"the caption {record.id} without its vector or its text")
    except DamagedMemoryError:
        keep.close()
        if folder.exists():
            aside.take(folder)
        report.captions = RENEWED


def _known_space(
    keep: Keep, memory_folder: Path, ledger: Ledger, bundle: str | None, report: Repaired
) -> tuple[str, int] | None:
    """The space of the memory and the numbers of its vectors; None where there is no memory, or nobody knows."""
    try:
        return keep.known_space()
    except DamagedMemoryError:
        pass
    # Only the small file that names space and shard is damaged: it can be written again.
    shards = sorted(memory_folder.glob("*.shard"))
    named = bundle or ledger.setting("bundle")
    if len(shards) != 1 or not named:
        return None
    try:
        manifest = open_bundle(expanded(named), bundles_folder()).manifest
    except BundleError:
        return None
    if manifest.space_id != (ledger.setting("space_id") or unquote(shards[0].name).partition(".shard")[0]):
        return None
    with _held(keep):
        EdgeMemory(memory_folder).name(manifest.space_id, manifest.dim, shards[0].name)
    report.memory = NAMED
    return manifest.space_id, manifest.dim


@contextmanager
def _held(keep: Keep) -> Iterator[None]:
    """Nobody else has the library open inside; nobody can open it as it is, so there is nobody to wait for."""
    lock = LibraryLock.take(keep.folder)
    if lock is None:
        raise LibraryBusyError(
            f"the library {keep.name} held by {holder_of(keep.folder) or 'another process'}", "it free", "stop it first"
        )
    try:
        lock.say("repairing", None)
        yield
    finally:
        lock.release()


def _settle(ledger: Ledger, space_id: str, bundle: str | None) -> str | None:
    """Write down again which space and bundle the library was made with; returns the bundle, where that is known."""
    ledger.settle("space_id", space_id)
    name = bundle or _bundle_of(space_id)
    return str(ledger.settle("bundle", name)) if name else ledger.setting("bundle")


def _bundle_of(space_id: str | None) -> str | None:
    """The name of a bundle that is here and has this space."""
    for name, folder in known_bundles(bundles_folder()).items():
        try:
            if open_bundle(folder).manifest.space_id == space_id:
                return name
        except BundleError:
            continue
    return None


class _Aside:
    """The folder for what is damaged; made when it is first needed, a new one each time."""

    def __init__(self, library: Path) -> None:
        self._library = library
        self._folder: Path | None = None

    @property
    def used(self) -> str | None:
        """The folder, if anything lies in it."""
        return str(self._folder) if self._folder else None

    def take(self, *paths: Path) -> None:
        """Move these there, those that exist."""
        if self._folder is None:
            number = 1
            while (folder := self._library / "damaged" / str(number)).exists():
                number += 1
            folder.mkdir(parents=True)
            self._folder = folder
        for path in paths:
            if path.exists():
                path.rename(self._folder / path.name)
