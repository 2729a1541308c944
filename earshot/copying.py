"""One library to another place, ledger and vectors, without hearing anything again.

The order is that of a run of ``index``: contents are announced, vectors written, and only then the ledger says that
they are there. Until all has been compared once more, the target's ledger calls itself an unfinished copy, and nothing
but the same command opens it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from earshot.keep import Keep, bare_space, keep_at
from earshot.limits import WAIT_S
from earshot.places import LEDGER, MEMORY, no_library
from engine.errors import LibraryError, SpaceMismatchError
from engine.memory.base import Memory
from engine.memory.captions import CaptionMemory
from engine.memory.server_options import is_url
from engine.types import Space
from indexer.ledger import Ledger
from indexer.tidy import remove_orphans
from indexer.transfer import ask_both, bring, bring_captions, compare

#: The setting in which the ledger of a copy says ``of`` which library it is one, and whether it is ``whole``.
COPY = "copy"


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """Where a copy is: ``done`` of ``windows`` have been read, to ``copy`` or to ``compare`` them."""

    step: str
    done: int
    windows: int


@dataclass(slots=True)
class CopyReport:
    """What a copy did. ``written`` of its ``windows`` were not there before; ``searches`` were answered alike."""

    source: str
    target: str
    files: int = 0
    failed: int = 0
    windows: int = 0
    written: int = 0
    captions: int = 0
    searches: int = 0
    wall_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return asdict(self) | {"wall_s": round(self.wall_s, 3)}


def copy_library(
    source: str | Path,
    target: str | Path,
    *,
    wait_s: float = WAIT_S,
    on_wait: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[CopyProgress], None] = lambda _: None,
) -> CopyReport:
    """Make ``target`` a copy of ``source``, or bring it up to date; each is a folder or a server's URL.

    Args:
        source: The library to be copied; it is only read. Searches of it go on, a run of ``index`` waits.
        target: Where to: a place without a library, or an earlier copy of the same one, finished or not.
        wait_s: How long to wait where another process is writing to one of them.
        on_wait: Called once before waiting, with who that is.
        on_progress: Called for every window, in this thread.

    Raises ``LibraryError`` if there is no whole library in ``source``, if ``target`` holds anything else, or if they
    differ after copying; ``SpaceMismatchError`` if it is of another space; ``LibraryBusyError``; ``MemoryStoreError``,
    as for a full disk. Whatever it raises, and if the process is killed, the same call goes on from there.
    """
    started = time.monotonic()
    with closing(keep_at(source)) as here, closing(keep_at(target)) as there:
        report = CopyReport(_name(here), _name(there))
        _require_apart(here, there)
        if not here.exists():
            raise lost_ledger(here.folder) if (here.folder / MEMORY).exists() else no_library(report.source)
        if not (here.folder / LEDGER).exists():  # of a server that others fill
            raise LibraryError(
                f"no ledger here of {report.source}",
                "that of a machine that indexes into it",
                f"copy it from there; `earshot repair --library {report.source}` brings back one that was lost here",
            )
        with closing(Ledger(here.folder / LEDGER)) as known:
            require_whole(known, report.source)
            _Copying(here, known, there, report, on_progress).run(wait_s, on_wait)
    report.wall_s = time.monotonic() - started
    return report


def lost_ledger(folder: Path) -> LibraryError:
    """What to say of the folder of a library that has a memory only."""
    return LibraryError(
        f"a memory without its ledger in {folder}", "both", "`earshot repair` makes the ledger anew from the memory"
    )


def _require_apart(here: Keep, there: Keep) -> None:
    """Raise ``LibraryError`` unless the target is a place of its own, new, empty, or with a library.

    A library may remove what it does not know from its folder, so nobody's files may lie in it, nor another library.
    """
    source, target = _name(here), _name(there)
    if source == target:
        raise LibraryError(f"{source} twice", "two places", "name another place for the copy")
    folder, other = there.folder.resolve(), here.folder.resolve()
    if folder.is_relative_to(other) or other.is_relative_to(folder):
        raise LibraryError(
            f"{source} and {target}, of which one lies in the other", "two places", "name another place for the copy"
        )
    try:
        is_free = not folder.exists() or (folder / LEDGER).exists() or not any(folder.iterdir())
    except OSError as error:
        raise LibraryError(f"{folder}: {error.strerror}", "an empty folder, or an earlier copy") from error
    if not is_free:
        raise LibraryError(
            f"{folder}, a folder with something else in it", "a new or empty one, or an earlier copy", "name another"
        )


def require_whole(ledger: Ledger, name: str) -> None:
    """Raise ``LibraryError`` if the library ``name`` is a copy that was not finished."""
    copy = ledger.setting(COPY)
    if copy and not copy["whole"]:
        action = f"finish it with `earshot copy {quote(copy['of'])} {quote(name)}`, or remove it"
        raise LibraryError(f"an unfinished copy of {copy['of']} in {name}", "a whole library", action)


def _name(keep: Keep) -> str:
    """What a library is called from everywhere: its URL, or its folder in full."""
    return keep.name if is_url(keep.name) else str(keep.folder.resolve())


@dataclass(frozen=True, slots=True)
class _Copying:
    """The two places, with the ledger ``known`` of the source, and who is to be told what."""

    here: Keep
    known: Ledger
    there: Keep
    report: CopyReport
    on_progress: Callable[[CopyProgress], None]

    def run(self, wait_s: float, on_wait: Callable[[str], None]) -> None:
        """Copy and compare. The locks of both are held meanwhile; that of the source first, before anything is made."""
        space = _space(self.here)
        if space is None:  # nothing was ever heard
            self._refuse_lost(0)
            with self._target() as ledger:
                self._claim(ledger, 0)
                ledger.adopt(self.known, COPY)
                self._bring_captions(wait_s, on_wait)
                self._finish(ledger)
            return
        with self.here.writing(space, _leave, wait_s, on_wait) as memory:
            self._refuse_lost(memory.count())
            with self._target() as ledger, self.there.writing(space, _leave, wait_s, on_wait) as copy:
                self._claim(ledger, copy.count())
                self._fill(memory, copy, ledger)
                self._bring_captions(wait_s, on_wait)
                self._finish(ledger)

    def _bring_captions(self, wait_s: float, on_wait: Callable[[str], None]) -> None:
        """What the source remembers in words, as it does itself, with a lock of its own."""
        with self.here.recalling() as captions:
            space = _space_of(captions)
            if space is None:  # an earlier copy may remember what was forgotten since
                with self.there.recalling() as kept:
                    space = _space_of(kept)
            if captions is None or space is None:
                return
            with self.there.remembering(space, wait_s, on_wait) as copy:
                alone = not is_url(self.report.target)
                self.report.captions = bring_captions(captions.memory, copy.memory, alone)

    def _fill(self, memory: Memory, copy: Memory, ledger: Ledger) -> None:
        windows = memory.count()

        def told(step: str) -> Callable[[int], None]:
            return lambda done: self.on_progress(CopyProgress(step, done, windows))

        self.report.written, sample = bring(memory, self.known, copy, ledger, told("copying"))
        ledger.adopt(self.known, COPY)
        remove_orphans(copy, ledger)  # what the source has forgotten since an earlier copy
        self.on_progress(CopyProgress("indexing", windows, windows))
        copy.optimise()
        copy.flush()
        compare(memory, copy, ledger, told("comparing"))
        self.report.searches = ask_both(memory, copy, sample)

    @contextmanager
    def _target(self) -> Iterator[Ledger]:
        """The ledger of the target. Raises ``SpaceMismatchError`` if it is one of another space."""
        self.there.known_space()  # of a server that does not answer, no ledger must be left behind
        self.there.make()
        with closing(Ledger(self.there.folder / LEDGER)) as ledger:
            ours, theirs = self.known.setting("space_id"), ledger.setting("space_id")
            if theirs not in (None, ours):
                raise SpaceMismatchError(
                    f"a library of the space {theirs} in {self.report.target}",
                    f"one of {ours}, as in {self.report.source}",
                    "copy to another place",
                )
            yield ledger

    def _refuse_lost(self, windows: int) -> None:
        """Raise ``LibraryError`` if the source's ledger knows of more than the ``windows`` there are, or of nothing."""
        expected = self.known.totals().windows
        if windows and self.known.is_blank:
            raise LibraryError(
                f"an empty ledger in {self.report.source}, and {windows} windows in its memory",
                "a ledger that knows of them",
                f"`earshot repair --library {quote(self.report.source)}` makes it anew",
            )
        if windows < expected:
            raise LibraryError(
                f"{windows} windows in the memory of {self.report.source}",
                f"{expected}, as its ledger says",
                f"`earshot repair --library {quote(self.report.source)}`, index its folders again, then copy it",
            )

    def _claim(self, ledger: Ledger, windows: int) -> None:
        """Call the target an unfinished copy of the source. Raises ``LibraryError`` if it is anything else."""
        copy, totals = ledger.setting(COPY), ledger.totals()
        if copy is None and (totals.files or totals.failed or totals.lost or windows):
            raise LibraryError(
                f"a library in {self.report.target}, of {totals.files} files and {windows} windows",
                f"an empty place, or an earlier copy of {self.report.source}",
                "copy to another place, or move that library away first",
            )
        if copy and copy["of"] != self.report.source:
            raise LibraryError(
                f"a copy of {copy['of']} in {self.report.target}",
                f"one of {self.report.source}, or an empty place",
                "copy to another place, or move that copy away first",
            )
        ledger.set_setting(COPY, {"of": self.report.source, "whole": False})

    def _finish(self, ledger: Ledger) -> None:
        ledger.set_setting(COPY, {"of": self.report.source, "whole": True})
        totals = ledger.totals()
        self.report.files, self.report.failed, self.report.windows = totals.files, totals.failed, totals.windows


def _space(keep: Keep) -> Space | None:
    """That of its memory, as far as a keep wants to know it: id and dimension. None if there is no memory yet."""
    known = keep.known_space()
    return Space(*known, sample_rate_hz=0, window_s=0.0, hop_s=0.0, pad="repeat") if known else None


def _space_of(captions: CaptionMemory | None) -> Space | None:
    """That of the captions remembered, as far as a keep wants to know it; None where there are none."""
    first = next(captions.memory.scroll(with_vectors=True), None) if captions else None
    return bare_space(captions.space_id, len(first.vector)) if captions and first and first.vector is not None else None


def _leave(memory: Memory) -> None:
    """Tidies nothing: the source is only read, and what lies in the target is looked at first."""
