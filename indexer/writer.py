"""The last stage: vectors to the memory, then the ledger; never the other way round.

One save is: announce the contents, upsert their points, flush the memory, then mark files and contents in one ledger
transaction. A kill between any two of these leaves either nothing new in the ledger, so that the next run does the
same again onto the same ids, or everything.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from engine.memory.base import Memory
from engine.types import Clip, FloatArray, Payload, Point, Space, Window, point_id
from indexer.holding import Holding
from indexer.ledger import Ledger
from indexer.paths import is_gone, path_text
from indexer.payload import of_contents, places_payload, whole_payload, window_payload
from indexer.report import IndexReport
from indexer.scan import Found
from indexer.tags import Tags

#: A save waits for this many points or seconds, whichever comes first.
SAVE_POINTS = 2048
SAVE_S = 5.0
#: Vectors of one long file are written before its end when they are this many.
HELD_WINDOWS = 1024
_NO_SAMPLES = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """One content being heard from one file; two files of the same content are heard once."""

    sha256: str
    file: Found
    clip: Clip | None
    tags: Tags | None


@dataclass(slots=True, eq=False)
class Heard:
    """One window of a content; the encoder exchanges its samples for ``vector`` ``[dim]``."""

    content: Content
    window: Window
    vector: FloatArray = field(default_factory=lambda: _NO_SAMPLES)

    def encoded(self, vector: FloatArray) -> None:
        """Keep the vector and let the samples go."""
        self.vector, self.window = vector, replace(self.window, samples=_NO_SAMPLES)


@dataclass(frozen=True, slots=True)
class Ended:
    """A content is whole (``reason`` None), or can't be heard.

    A ``transient`` reason is about the path (gone, changed, no permission): another copy may well be heard.
    """

    content: Content
    windows: int
    duration_s: float
    reason: str | None
    transient: bool = False

    @property
    def remark(self) -> str | None:
        """What is wrong with a file that was heard all the same."""
        return "; ".join(self.content.clip.remarks) or None if self.content.clip else None


@dataclass(frozen=True, slots=True)
class Same:
    """A file whose content is in the memory, or is just being heard from another path."""

    file: Found
    sha256: str


Message: TypeAlias = Heard | Ended | Same


class Writer:
    """Takes messages in order and saves them in groups. One thread calls ``take`` and ``save``."""

    def __init__(self, space: Space, memory: Memory, ledger: Ledger, report: IndexReport) -> None:
        self._space, self._memory, self._ledger, self._report = space, memory, ledger, report
        self._claimed: set[str] = set()
        self._adopted: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._held: dict[str, list[Heard]] = {}
        self._early: set[str] = set()
        self._ready: list[Point] = []
        self._ended: dict[str, Ended] = {}
        self._failed: list[tuple[Found, str, bool]] = []
        self._reasons: dict[str, str] = {}
        self._same: list[Same] = []
        self._saved_at = time.monotonic()

    def claim(self, sha256: str) -> bool:
        """Whether the caller is to hear this content: nobody else is, and the memory does not have it."""
        with self._lock:
            if sha256 in self._claimed or sha256 in self._adopted or self._ledger.is_indexed(sha256):
                return False
            self._claimed.add(sha256)
        # Another machine may have heard it into the same memory.
        whole = self._memory.whole(sha256) if isinstance(self._memory, Holding) else None
        if whole is None:
            return True
        with self._lock:
            self._claimed.discard(sha256)
            self._adopted[sha256] = whole
        return False

    def take(self, messages: Iterable[Message]) -> None:
        """Accept encoded messages; saves when enough has come together."""
        for message in messages:
            if isinstance(message, Heard):
                self._hold(message)
            elif isinstance(message, Same):
                self._same.append(message)
            elif message.reason is None:
                self._finish(message)
            else:
                self._fail(message)
        waiting = len(self._ready) + len(self._failed) + len(self._same)
        if waiting >= SAVE_POINTS or (waiting and time.monotonic() - self._saved_at > SAVE_S):
            self.save()

    def _hold(self, message: Heard) -> None:
        held = self._held.setdefault(message.content.sha256, [])
        held.append(message)
        if len(held) >= HELD_WINDOWS:
            self._early.add(message.content.sha256)
            self._upsert(message.content.sha256, [self._point(m, {}) for m in held])
            held.clear()

    def _finish(self, ended: Ended) -> None:
        sha256 = ended.content.sha256
        whole = whole_payload(ended.windows, ended.duration_s)
        self._ready += [self._point(m, whole) for m in self._held.pop(sha256, [])]
        self._ended[sha256] = ended

    def _fail(self, ended: Ended) -> None:
        sha256, reason = ended.content.sha256, ended.reason or ""
        self._held.pop(sha256, None)
        self._failed.append((ended.content.file, reason, ended.transient))
        if sha256 in self._early:  # another copy may have fewer windows
            self._memory.delete(of_contents(sha256))
            self._early.discard(sha256)
        if not ended.transient:
            self._reasons[sha256] = reason
            return
        with self._lock:
            self._claimed.discard(sha256)

    def unheard(self) -> list[Found]:
        """The files waiting for a copy that could not be heard for a reason of its own: they are to be heard now."""
        files, self._same = [same.file for same in self._same], []
        return files

    def _point(self, heard: Heard, whole: Payload) -> Point:
        """A point as it is remembered. Of a long file's early windows the duration is set at its end."""
        content, window = heard.content, heard.window
        assert content.clip is not None, "a heard content has been opened"
        assert content.tags is not None
        payload = window_payload(content.sha256, content.file.path, content.clip, content.tags, window, whole)
        return Point(point_id(content.sha256, self._space.space_id, window.index), heard.vector, payload)

    def _upsert(self, sha256: str, points: Sequence[Point]) -> None:
        self._ledger.announce(sha256)
        self._memory.upsert(points)

    def save(self) -> None:
        """Make everything durable that is whole: the memory first, the ledger second."""
        assigned = [(e.content.file, e.content.sha256) for e in self._ended.values()] + self._settle_same()
        adopted = {sha256: self._adopted[sha256] for _, sha256 in assigned if sha256 in self._adopted}
        with self._ledger.transaction():
            for sha256 in (*self._ended, *adopted):
                self._ledger.announce(sha256)
        if self._ready:
            self._memory.upsert(self._ready)
        for sha256 in self._early & self._ended.keys():
            ended = self._ended[sha256]
            self._memory.set_payload(of_contents(sha256), whole_payload(ended.windows, ended.duration_s))
        gone = self._place_paths(assigned, [file.path for file, _, _ in self._failed])
        self._memory.flush()
        with self._ledger.transaction():
            for sha256, ended in self._ended.items():
                self._ledger.complete(sha256, ended.windows, ended.duration_s, ended.remark)
            for sha256, (windows, duration_s) in adopted.items():
                self._ledger.complete(sha256, windows, duration_s)
            for path in gone:
                self._ledger.forget_path(path)
            for file, sha256 in assigned:
                self._ledger.assign(file.path, file.size_bytes, file.mtime_ns, sha256)
            for file, reason, transient in self._failed:
                self._ledger.fail(file.path, file.size_bytes, file.mtime_ns, reason, transient)
        self._account(assigned)

    def _settle_same(self) -> list[tuple[Found, str]]:
        """Files whose content is whole by now; those whose content failed join the failed, the others wait on."""
        settled, waiting = [], []
        for same in self._same:
            if same.sha256 in self._ended or same.sha256 in self._adopted or self._ledger.is_indexed(same.sha256):
                settled.append((same.file, same.sha256))
            elif same.sha256 in self._reasons:
                self._failed.append((same.file, self._reasons[same.sha256], False))
            else:
                waiting.append(same)
        self._same = waiting
        return settled

    def _place_paths(self, assigned: Sequence[tuple[Found, str]], failed: Sequence[Path]) -> list[Path]:
        """Tell every content that gains or loses a path; returns the paths found gone (moved files)."""
        paths: dict[str, set[Path]] = {}
        gone: list[Path] = []

        def known(sha256: str) -> set[Path]:
            if sha256 not in paths:
                paths[sha256] = set(self._ledger.paths_of(sha256))
            return paths[sha256]

        fresh = set()
        for path in [file.path for file, _ in assigned] + list(failed):
            before = self._ledger.file(path)
            if before and before.sha256:
                known(before.sha256).discard(path)
        for file, sha256 in assigned:
            if not known(sha256) and sha256 in self._ended:
                fresh.add(sha256)
            known(sha256).add(file.path)
        for sha256, holders in paths.items():
            moved = [path for path in holders if is_gone(path)] if len(holders) > 1 else []
            gone += moved
            holders.difference_update(moved)
            if holders and not (sha256 in fresh and len(holders) == 1):
                self._memory.set_payload(of_contents(sha256), places_payload(sorted(holders)))
        return gone

    def _account(self, assigned: Sequence[tuple[Found, str]]) -> None:
        """Count what was saved, and begin the next group."""
        report = self._report
        report.indexed += len(assigned)
        report.copies += len(assigned) - len(self._ended)
        report.done_bytes += sum(file.size_bytes for file, _ in assigned)
        report.windows += sum(ended.windows for ended in self._ended.values())
        report.audio_s += sum(ended.duration_s for ended in self._ended.values())
        for ended in self._ended.values():
            if ended.remark:
                report.damaged.append((path_text(ended.content.file.path), ended.remark))
        for file, reason, _ in self._failed:
            report.failed.append((path_text(file.path), reason))
            report.done_bytes += file.size_bytes
        done = self._ended.keys() | self._reasons.keys()
        with self._lock:
            self._claimed -= done
            for _, sha256 in assigned:
                self._adopted.pop(sha256, None)
        self._early -= done
        self._ready, self._ended, self._failed = [], {}, []
        self._saved_at = time.monotonic()
