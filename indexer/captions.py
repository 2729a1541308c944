"""Captions on ingest: what is heard is put into words by a thread of its own, beside hearing, and never in its way.

The ledger is the queue: contents that are indexed and not captioned, of this run or of earlier ones. Their vectors come
from the memory, so nothing is decoded again. One content is: captions of its windows into the memory, some hundreds at
a time, their texts among the captions remembered (as generated: found, never projected), the file's captions at its
first window, all flushed, and only then the ledger's mark. A kill before that repeats it onto the same points and the
same ids, without the windows of which this captioner has said something already. What is unsure stays on its window,
marked so: it is no text to be remembered, and no word by which a file is found.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from engine.eventless import has_event, known_of, told, unsure_if_short
from engine.memory.base import Memory
from engine.memory.captions import GENERATED, Said
from engine.noise import NOISE
from engine.types import Caption, Clause, FloatArray, Nothing, Payload
from indexer.flow import Flow
from indexer.ledger import Ledger
from indexer.payload import of_contents
from indexer.report import IndexReport

#: Contents, and about so many windows, that are captioned and saved together; of a longer one so many at a time.
CONTENTS_AT_ONCE, WINDOWS_AT_ONCE = 16, 256
#: Windows put into words between two looks at whether the run is to stop.
WINDOWS_A_STEP = 32
#: A file keeps so many different captions, those that it has said longest.
MOST_CAPTIONS = 1000
_POLL_S = 0.1
NICE = 10
#: What a window's payload says of its caption, and who said it.
_SAID, CAPTION_BY = ("caption", "caption_score", "caption_language", "caption_unsure"), "caption_by"


class Captioner(Protocol):
    """Puts sounds into words."""

    def caption(self, vectors: FloatArray) -> list[Caption]:
        """``[n, dim]`` -> n captions; one without text where there is nothing to say."""


@runtime_checkable
class TellsEvents(Protocol):
    """A captioner that heeds what the samples said."""

    def caption_events(self, vectors: FloatArray) -> list[Caption]:
        """The same of sounds ``[n, dim]`` in which something happens: they are never called silence or noise."""


@dataclass(frozen=True, slots=True)
class Captioning:
    """Who puts sounds into words, and who remembers them.

    ``remember`` may be given the same caption again. It waits where it has to; false if it was given up before. ``by``
    names the captioner and what it builds upon: the same name says the same of the same sound; empty if nobody knows.
    ``language`` is the captioner's; in it silence and noise are called so, which it isn't asked about. ``only_again``:
    no sound but those marked to be said again.
    """

    captioner: Captioner
    remember: Callable[[Sequence[Said], Callable[[], bool]], bool]
    by: str = ""
    only_again: bool = False
    language: str = "eng"


@dataclass(frozen=True, slots=True)
class Heard:
    """One window of a content, as the memory has it."""

    window: int
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring windows of which the same is said: ``first`` to ``last``, and the best score among them.

    ``unsure`` if no window is sure of it; ``by`` the captioner that said it, if it has a name.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    text: str
    score: float
    language: str = ""
    unsure: bool = False
    by: str = ""

    def payload(self) -> Payload:
        """What its windows say of it, in the place of what they said before; who has nothing to say is named, too."""
        said: Payload = dict.fromkeys(_SAID)
        if self.text:
            said = {
                "caption": self.text,
                "caption_score": round(self.score, 4),
                "caption_language": self.language or None,
                "caption_unsure": self.unsure,
            }
        return {**said, CAPTION_BY: self.by or None}


def runs(heard: Sequence[Heard], captions: Sequence[Caption], by: str = "") -> list[Run]:
    """The windows of a content, by number, and their captions, merged where neighbours say the same."""
    merged: list[Run] = []
    for window, caption in zip(heard, captions, strict=True):
        last = merged[-1] if merged else None
        if last and last.text == caption.text and last.last + 1 == window.window:
            score, unsure = max(last.score, caption.score), last.unsure and caption.unsure
            merged[-1] = replace(last, last=window.window, end_s=window.end_s, score=score, unsure=unsure)
        else:
            where = (window.window, window.window, window.start_s, window.end_s)
            merged.append(Run(*where, caption.text, caption.score, caption.language, caption.unsure, by))
    return merged


def caption_of(said: Payload) -> Caption:
    """What the payload of a window says was said of it."""
    score, language = float(said.get("caption_score") or 0.0), str(said.get("caption_language") or "")
    return Caption(said.get("caption") or "", score, language, unsure=bool(said.get("caption_unsure")))


def of_file(merged: Sequence[Run]) -> list[str]:
    """What is said of a file and believed: each caption once, in order of appearance."""
    spoken_s: dict[str, float] = defaultdict(float)
    for run in merged:
        if run.text and not run.unsure:
            spoken_s[run.text] += run.end_s - run.start_s
    longest = set(sorted(spoken_s, key=lambda text: -spoken_s[text])[:MOST_CAPTIONS])
    return [text for text in spoken_s if text in longest]


def give_way() -> None:
    """Let this thread, and those that it starts, work at a low priority: hearing comes first.

    On Linux, where a thread has a priority of its own.
    """
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, max(NICE, os.getpriority(os.PRIO_PROCESS, own)))


@contextmanager
def captioned_beside(
    flow: Flow,
    captioning: Captioning | None,
    memory: Memory,
    ledger: Ledger,
    roots: Sequence[Path],
    report: IndexReport,
) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Caption what lies below ``roots``, and what comes to lie there, in a thread, for the time inside.

    Gives a function that waits until all is captioned and calls ``on_wait`` meanwhile; without that the thread stops
    after what it has in hand. What it raises stops the run, as ``flow.errors``.
    """
    if captioning is None:
        yield lambda on_wait: None
        return
    heard = threading.Event()
    work = _Captions(flow, captioning, memory, ledger, roots, report)
    thread = flow.thread("caption", lambda: work.go_on(heard))

    def finish(on_wait: Callable[[], None]) -> None:
        heard.set()
        while thread.is_alive():
            thread.join(_POLL_S)
            on_wait()

    try:
        yield finish
    finally:
        if thread.is_alive():
            flow.stop.set()
            thread.join()


@dataclass(slots=True)
class _Window:
    """One window that is to be captioned: what the memory says of it, and its caption, None while it has none."""

    heard: Heard
    kept: Payload
    caption: Caption | None
    kind: Nothing
    has_event: bool


@dataclass(frozen=True, slots=True)
class _Captions:
    """The thread's work."""

    flow: Flow
    captioning: Captioning
    memory: Memory
    ledger: Ledger
    roots: Sequence[Path]
    report: IndexReport

    def go_on(self, heard: threading.Event) -> None:
        """Until all has been heard and captioned, or the run stops."""
        lost: set[str] = set()
        give_way()
        while not self.flow.stop.is_set():
            is_last = heard.is_set()  # asked first: what comes after it is in the ledger by then
            contents = self.ledger.uncaptioned(self.roots, CONTENTS_AT_ONCE + len(lost), self.captioning.only_again)
            contents = {sha256: windows for sha256, windows in contents.items() if sha256 not in lost}
            if contents:
                with self.flow.timed("caption"):
                    lost |= self._caption(contents)
            elif is_last:
                return
            else:
                heard.wait(_POLL_S)

    def _caption(self, contents: dict[str, int]) -> set[str]:
        """Caption some of these contents; returns those that the memory has not, or not whole."""
        some: dict[str, int] = {}
        for sha256, windows in contents.items():
            if some and sum(some.values()) + windows > WINDOWS_AT_ONCE:
                break
            some[sha256] = windows
        found, done = self._windows(list(some))
        whole = {sha256: found[sha256] for sha256 in some if len(found[sha256]) == some[sha256]}
        done = {sha256: by for sha256, by in done.items() if sha256 in whole and not self.ledger.to_say_again(sha256)}
        to_say = {sha256: windows for sha256, windows in whole.items() if sha256 not in done}
        if not self._say(to_say) or not self._conclude(to_say):
            return set()
        self.memory.flush()
        self.ledger.mark_captioned({**done, **dict.fromkeys(to_say, self.captioning.by)})
        self.report.captioned += len(to_say)
        return some.keys() - whole.keys()

    def _windows(self, contents: Sequence[str]) -> tuple[Mapping[str, list[_Window]], dict[str, str]]:
        """The windows of each content, by number; and the contents that another machine has captioned, by whom."""
        found: dict[str, list[_Window]] = defaultdict(list)
        done: dict[str, str] = {}
        for record in self.memory.scroll(of_contents(*contents)):
            said = record.payload
            sha256, by = str(said["sha256"]), str(said.get(CAPTION_BY) or "")
            heard = Heard(int(said["window"]), float(said["start_s"]), float(said["end_s"]))
            is_ours = by and by == self.captioning.by
            kept = {key: said.get(key) for key in (*_SAID, CAPTION_BY)}
            known = caption_of(said) if is_ours else None
            if kind := known_of(said):
                known = told(kind, self.captioning.language)
            found[sha256].append(_Window(heard, kept, known, kind, has_event(said)))
            if said.get("captions"):
                done[sha256] = by
        for windows in found.values():
            windows.sort(key=lambda one: one.heard.window)
            for before, odd, after in zip(windows, windows[1:], windows[2:], strict=False):
                # As ``engine.moments.settled``: of an odd one between noise the vector is asked.
                odd.has_event = odd.has_event and not before.kind == after.kind == NOISE
        return found, done

    def _say(self, contents: Mapping[str, list[_Window]]) -> bool:
        """Put into words, and write, what this captioner has not yet; false if the run is to stop before the end.

        Vectors are held for a few windows at a time, and what has been said of these is kept: a recording of a day
        takes little more memory than a short one, and a kill costs little of its work.
        """
        missing = [(sha256, one) for sha256, windows in contents.items() for one in windows if one.caption is None]
        for first in range(0, len(missing), WINDOWS_AT_ONCE):
            few = missing[first : first + WINDOWS_AT_ONCE]
            vectors = self._vectors([(sha256, one.heard.window) for sha256, one in few])
            captions = self._said(vectors, [one.has_event for _, one in few]) if vectors is not None else None
            if captions is None:
                return False
            said: dict[str, list[_Window]] = defaultdict(list)
            for (sha256, one), caption in zip(few, captions, strict=True):
                seconds = one.heard.end_s - one.heard.start_s
                one.caption = replace(unsure_if_short(caption, seconds), evidence=())  # which is not kept
                said[sha256].append(one)
            for sha256, windows in said.items():
                self._write(sha256, windows)
            if first + len(few) < len(missing):
                self.memory.flush()
        return True

    def _vectors(self, windows: Sequence[tuple[str, int]]) -> FloatArray | None:
        """The vectors ``[n, dim]`` of these windows, contents with numbers; None if one of them is gone."""
        numbers = [number for _, number in windows]
        where = of_contents(*dict.fromkeys(sha256 for sha256, _ in windows)).also(
            Clause("window", ">=", min(numbers)), Clause("window", "<=", max(numbers))
        )
        found = {
            (str(one.payload["sha256"]), int(one.payload["window"])): one.vector
            for one in self.memory.scroll(where, with_vectors=True)
        }
        vectors = [vector for window in windows if (vector := found.get(window)) is not None]
        return np.stack(vectors) if len(vectors) == len(windows) else None

    def _said(self, vectors: FloatArray, events: Sequence[bool]) -> list[Caption] | None:
        """The captions of vectors ``[n, dim]``, with or without ``events``; None if the run is to stop."""
        captioner = self.captioning.captioner
        heeded = captioner.caption_events if isinstance(captioner, TellsEvents) else captioner.caption
        captions: dict[int, Caption] = {}
        for say, rows in (
            (heeded, [row for row, event in enumerate(events) if event]),
            (captioner.caption, [row for row, event in enumerate(events) if not event]),
        ):
            for first in range(0, len(rows), WINDOWS_A_STEP):
                if self.flow.stop.is_set():
                    return None
                some = rows[first : first + WINDOWS_A_STEP]
                captions.update(zip(some, say(vectors[some]), strict=True))
        return [captions[row] for row in range(len(vectors))]

    def _write(self, sha256: str, windows: Sequence[_Window]) -> list[Run]:
        """Let these windows of a content say their captions, merged, as far as they don't yet; returns the runs."""
        captions = [one.caption for one in windows if one.caption is not None]
        merged = runs([one.heard for one in windows], captions, self.captioning.by)
        first = 0
        for run in merged:
            said, mine = run.payload(), windows[first : first + run.last - run.first + 1]
            first += len(mine)
            if any(one.kept != said for one in mine):
                where = of_contents(sha256).also(Clause("window", ">=", run.first), Clause("window", "<=", run.last))
                self.memory.set_payload(where, said)
                for one in mine:
                    one.kept = said
        return merged

    def _conclude(self, contents: Mapping[str, list[_Window]]) -> bool:
        """Remember what is said of these contents, and let their first windows say all of it.

        False if the run is to stop before that is done.
        """
        said = {sha256: self._write(sha256, windows) for sha256, windows in contents.items()}
        sure = [run for merged in said.values() for run in merged if run.text and not run.unsure]
        texts = dict.fromkeys((run.text, run.language) for run in sure)
        if not self.captioning.remember([Said(*text, GENERATED) for text in texts], self.flow.stop.is_set):
            return False
        for sha256, merged in said.items():  # last: it says that all is there
            where = of_contents(sha256).also(Clause("window", "=", 0))
            self.memory.set_payload(where, {"captions": of_file(merged) or None})
        return True
