"""A library heard anew with another bundle, beside the space that answers; and back again.

The new space is filled from the files that the ledger knows, with a ledger of its own, while every process goes on
searching and indexing in the old one. When it has all that is there, what came, changed or was forgotten meanwhile is
brought over under the library's lock, and the library switches in one step. Killed at any moment, the same command goes
on; the old space stays for `earshot library rollback`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from earshot.keep import Keep
from earshot.limits import WAIT_S
from earshot.remembering import CAPTION_LANGUAGE, captioning, forget_superseded, supersede
from earshot.spaces import BUNDLE, PREVIOUS, SPACE, Filling
from engine.encoders import Encoders
from engine.errors import BundleError, LibraryError, MemoryStoreError, QueryError
from engine.memory.base import Memory
from engine.types import Space
from indexer.ledger import Ledger
from indexer.paths import path_text
from indexer.pipeline import IndexOptions, index
from indexer.reindex import forget_as, left_behind, refusal, to_hear
from indexer.report import IndexReport, Progress

if TYPE_CHECKING:
    from earshot.library import Library

_MIB = 1024 * 1024
#: Bytes of a window besides its vector where there are too few to measure: payload, its indexes, the log.
_WINDOW_BYTES = 2500
_MEASURED_FROM = 5000


@dataclass(slots=True)
class ReindexReport:
    """What hearing a library anew did: ``index`` counts as ever. ``gone`` are the files whose sound only the previous
    space has, because they are no longer there; ``switched`` says whether ``space_id`` answers now. ``uncaptioned``
    counts the sounds that have captions in the space before and none here, ``reason`` says why, if they can't be made.
    """

    index: IndexReport
    space_id: str
    previous: str
    switched: bool = False
    gone: list[str] = field(default_factory=list)
    uncaptioned: int = 0
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form: that of ``index``, and more."""
        more = {"space_id": self.space_id, "previous": self.previous, "switched": self.switched, "gone": self.gone}
        words = {"uncaptioned": self.uncaptioned, "reason": self.reason}
        return {**self.index.to_dict(), "reindexed": more | words}


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long to wait for another process, and who is told what."""

    wait_s: float = WAIT_S
    on_wait: Callable[[str], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Reindexing:
    """The library that is heard anew: where it is kept, its ledger, and what tidies the memory that answers."""

    keep: Keep
    ledger: Ledger
    tidy: Callable[[Memory], None]
    waiting: Waiting

    def run(
        self,
        encoders: Encoders,
        bundle: str | None,
        roots: Sequence[Path],
        options: IndexOptions,
        on_progress: Callable[[Progress], None],
    ) -> ReindexReport:
        """Fill the space of ``encoders``, then switch to it. See ``Library.reindex``."""
        old = known_space(self.keep)
        space, wait = encoders.space, self.waiting
        with self.keep.spaces.filling(space, wait.wait_s, wait.on_wait) as new:
            if self.ledger.setting(SPACE) == space.space_id:
                raise LibraryError(
                    f"a library that {space.space_id} answers already", "another one", "another process was faster"
                )
            self._abandon_others(space)
            self._say_need(old, space, new)
            new.ledger.set_setting(SPACE, space.space_id)
            new.ledger.set_setting(BUNDLE, bundle)
            report = ReindexReport(self._hear(encoders, new, roots, options, on_progress), space.space_id, old.space_id)
            if report.index.interrupted or self._is_refused(report, new, options):
                return report
            with self.keep.writing(old, self.tidy, wait.wait_s, wait.on_wait):
                late = self._hear(encoders, new, roots, options, lambda _: None)
                _add(report.index, late)
                if late.interrupted or self._is_refused(report, new, options):
                    return report
                forget_as(self.ledger, new.memory, new.ledger)
                if why := None if options.prune_anyway else self.keep.spaces.lacking(new):
                    report.index.refused = f"not switched: {why}"
                    return report
                new.ledger.say_again_as(self.ledger)
                self._switch(old, new, bundle)
                report.switched = True
        self._open(space)
        return report

    def caption(
        self,
        library: Library,
        report: ReindexReport,
        everything: bool,
        lang: str | None,
        on_progress: Callable[[Progress], None],
    ) -> None:
        """Caption the sounds that had captions in the space before, or ``everything``, in the one that answers now.

        Where its bundle can't, ``report`` says why.
        """
        report.uncaptioned = self.ledger.unsaid()
        if not (everything or report.uncaptioned):
            return
        supersede(self.ledger)
        try:
            captions = captioning(library, self.keep, True, lang or self.ledger.setting(CAPTION_LANGUAGE))
        except (BundleError, QueryError) as error:
            report.reason = str(error)
            return
        space, wait = library.encoders.space, self.waiting
        wait.say("captioning what has been heard" if everything else f"captioning {report.uncaptioned} sounds anew")
        options = IndexOptions(captions=replace(captions, only_again=not everything))
        with self.keep.writing(space, self.tidy, wait.wait_s, wait.on_wait) as memory:
            made = index([], library.encoders, memory, self.ledger, options, on_progress)
            if not made.interrupted:
                forget_superseded(self.keep, space, self.ledger, memory)
        report.index.captioned += made.captioned
        report.index.interrupted = made.interrupted
        report.index.wall_s += made.wall_s
        report.index.stages_s["caption"] = made.stages_s["caption"]
        report.uncaptioned = self.ledger.unsaid()

    def roll_back(self, opens: Callable[[str, str | None], None]) -> str:
        """Go back to the space before; returns its name. See ``Library.rollback``.

        ``opens`` is told that space and its bundle before anything changes, and raises where nothing could ask there.
        """
        previous = previous_space(self.keep, self.ledger)
        old, wait = known_space(self.keep), self.waiting
        with (
            self.keep.spaces.filling(previous, wait.wait_s, wait.on_wait) as back,
            self.keep.writing(old, self.tidy, wait.wait_s, wait.on_wait),
        ):
            bundle = back.ledger.setting(BUNDLE)
            opens(previous.space_id, bundle)
            self._switch(old, back, bundle)
        self._open(previous)
        return previous.space_id

    def _open(self, space: Space) -> None:
        """Open what answers now, as whoever asks next would, so that its folders are in their places."""
        self.keep.close()
        with self.keep.reading(space, self.tidy) as memory:
            memory.count()

    def _abandon_others(self, space: Space) -> None:
        """Remove what an earlier command began for a third bundle and did not finish."""
        wanted = (space.space_id, self.ledger.setting(PREVIOUS), self.ledger.setting(SPACE))
        for name in [name for name in self.keep.spaces.others() if name not in wanted]:
            self.waiting.say(f"removing {name}, which was never finished")
            self.keep.spaces.drop(name)

    def _hear(
        self,
        encoders: Encoders,
        new: Filling,
        roots: Sequence[Path],
        options: IndexOptions,
        on_progress: Callable[[Progress], None],
    ) -> IndexReport:
        return index([], encoders, new.memory, new.ledger, options, on_progress, to_hear(self.ledger, roots))

    def _is_refused(self, report: ReindexReport, new: Filling, options: IndexOptions) -> bool:
        """Whether so much is gone that it may only seem so."""
        gone = left_behind(self.ledger, new.ledger)
        report.gone = [path_text(path) for path in gone]
        why = None if options.prune_anyway else refusal(self.ledger, gone)
        report.index.refused = f"not switched: {why}" if why else None
        return why is not None

    def _switch(self, old: Space, new: Filling, bundle: str | None) -> None:
        """Let the other space answer. The ledger's transaction is the moment; a kill before it leaves the old one."""
        before = self.ledger.setting(PREVIOUS)
        self.keep.spaces.leave(old, self.ledger)
        new.memory.flush()
        self.keep.spaces.hand_over(new)
        self.ledger.become(new.ledger, {SPACE: new.space_id, BUNDLE: bundle, PREVIOUS: old.space_id})
        if before not in (None, new.space_id):
            self.keep.spaces.drop(before)

    def _say_need(self, old: Space, space: Space, new: Filling) -> None:
        """Say how much room the new space will take. Raises ``MemoryStoreError`` where there is less."""
        totals = self.ledger.totals()
        room = self.keep.spaces.room()
        windows = max(0.0, totals.audio_s / space.hop_s + totals.files - new.ledger.totals().windows)
        per_window = _WINDOW_BYTES
        if room and totals.windows >= _MEASURED_FROM:
            per_window = max(0, room.used // totals.windows - 4 * old.dim)
        need = round(windows * (per_window + 4 * space.dim))
        told = f"hearing {totals.files} files for {space.space_id}; {old.space_id} answers until that is done"
        if room is None:
            self.waiting.say(f"{told}; the server needs about {need // _MIB + 1} MiB more")
            return
        self.waiting.say(f"{told}; about {need // _MIB + 1} MiB more on disk, {room.free // _MIB} MiB are free")
        if room.free < need:
            raise MemoryStoreError(
                f"{room.free // _MIB} MiB free on the disk of {self.keep.name}",
                f"at least {need // _MIB + 1} MiB, for two spaces side by side",
                "free some space, or forget the one before with `earshot library forget-old`",
            )


def forget_others(keep: Keep, ledger: Ledger) -> list[str]:
    """Remove every space beside the one that answers; returns their names."""
    known = keep.known_space()
    names = [name for name in keep.spaces.others() if known and name not in (known[0], ledger.setting(SPACE))]
    ledger.set_setting(PREVIOUS, None)
    for name in names:
        keep.spaces.drop(name)
    return names


def known_space(keep: Keep) -> Space:
    """The space that answers, as far as a keep wants to know it. Raises ``LibraryError`` where there is none."""
    known = keep.known_space()
    if known is None:
        raise LibraryError(f"nothing heard in {keep.name} yet", "a library to hear anew", "index a folder into it")
    return Space(*known, sample_rate_hz=0, window_s=0.0, hop_s=0.0, pad="repeat")


def previous_space(keep: Keep, ledger: Ledger) -> Space:
    """The space before. Raises ``LibraryError`` where there is none any more."""
    name = ledger.setting(PREVIOUS)
    known = keep.spaces.beside(str(name)) if name else None
    if known is None:
        raise LibraryError(
            f"no space before {ledger.setting(SPACE)} in {keep.name}",
            "one, which hearing it anew leaves until the next time",
            "hear it anew with `earshot index --bundle`",
        )
    return Space(*known, sample_rate_hz=0, window_s=0.0, hop_s=0.0, pad="repeat")


def reopened(space_id: str, load: Callable[[], Encoders], also_text: bool) -> Encoders:
    """The towers of a space that answered before, tried. Raises ``BundleError`` where they are no longer there."""
    to_do = "put it back; or, if it has moved, go back with `earshot index --bundle` and where it is now"
    try:
        towers = load()
        _ = towers.audio, towers.text if also_text else None
    except BundleError as error:
        raise BundleError(f"{error.found}, which heard {space_id}", error.expected, to_do) from error
    if towers.space.space_id != space_id:
        raise BundleError(f"{towers.space.space_id} where its bundle was", space_id, to_do)
    return towers


def _add(report: IndexReport, late: IndexReport) -> None:
    """What the last look found, beside what was heard before it. Failures it met again are no news."""
    report.indexed += late.indexed
    report.copies += late.copies
    report.windows += late.windows
    report.audio_s += late.audio_s
    report.wall_s += late.wall_s
    report.interrupted = late.interrupted
    known = dict(report.failed)
    report.failed += [(path, reason) for path, reason in late.failed if path not in known]
    report.damaged += late.damaged
