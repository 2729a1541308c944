"""Captions on ingest: what is heard is put into words by a thread of its own, beside hearing, and never in its way.

The ledger is the queue: contents that are indexed and not captioned, of this run or of earlier ones. Their vectors come
from the memory, so nothing is decoded again. One content is: captions of its windows into the memory, their texts among
the captions remembered (as generated: found, never projected), the file's captions at its first window, all flushed,
and only then the ledger's mark. A kill before that repeats it onto the same points and the same ids. What is unsure
stays on its window, marked so: it is no text to be remembered, and no word by which a file is found.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from engine.memory.base import Memory
from engine.memory.captions import GENERATED, Said
from engine.types import Caption, Clause, FloatArray, Payload
from indexer.flow import Flow
from indexer.ledger import Ledger
from indexer.payload import of_contents
from indexer.report import IndexReport

#: Contents, and about so many windows, that are captioned and saved together.
CONTENTS_AT_ONCE, WINDOWS_AT_ONCE = 16, 256
#: Windows put into words between two looks at whether the run is to stop.
WINDOWS_A_STEP = 32
#: A file keeps so many different captions, those that it has said longest.
MOST_CAPTIONS = 1000
_POLL_S = 0.1
NICE = 10


class Captioner(Protocol):
    """Puts sounds into words."""

    def caption(self, vectors: FloatArray) -> list[Caption]:
        """``[n, dim]`` -> n captions; one without text where there is nothing to say."""


@dataclass(frozen=True, slots=True)
class Captioning:
    """Who puts sounds into words, and who remembers them.

    ``remember`` may be given the same caption again. It waits where it has to; false if it was given up before.
    """

    captioner: Captioner
    remember: Callable[[Sequence[Said], Callable[[], bool]], bool]


@dataclass(frozen=True, slots=True)
class Heard:
    """One window of a content, as the memory has it."""

    window: int
    start_s: float
    end_s: float
    vector: FloatArray


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring windows of which the same is said: ``first`` to ``last``, and the best score among them.

    ``unsure`` if no window is sure of it.
    """

    first: int
    last: int
    start_s: float
    end_s: float
    text: str
    score: float
    language: str = ""
    unsure: bool = False

    def payload(self) -> Payload:
        """What its windows say of it, in the place of what they said before."""
        if not self.text:
            return dict.fromkeys(("caption", "caption_score", "caption_language", "caption_unsure"))
        return {
            "caption": self.text,
            "caption_score": round(self.score, 4),
            "caption_language": self.language or None,
            "caption_unsure": self.unsure,
        }


def runs(heard: Sequence[Heard], captions: Sequence[Caption]) -> list[Run]:
    """The windows of a content, by number, and their captions, merged where neighbours say the same."""
    merged: list[Run] = []
    for window, caption in zip(heard, captions, strict=True):
        last = merged[-1] if merged else None
        if last and last.text == caption.text:
            score, unsure = max(last.score, caption.score), last.unsure and caption.unsure
            merged[-1] = replace(last, last=window.window, end_s=window.end_s, score=score, unsure=unsure)
        else:
            where = (window.window, window.window, window.start_s, window.end_s)
            merged.append(Run(*where, caption.text, caption.score, caption.language, caption.unsure))
    return merged


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
            contents = self.ledger.uncaptioned(self.roots, CONTENTS_AT_ONCE + len(lost))
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
        heard, done = self._heard(list(some))
        done -= {sha256 for sha256 in done if self.ledger.to_say_again(sha256)}
        whole = {sha256: heard[sha256] for sha256 in some if len(heard[sha256]) == some[sha256]}
        to_say = [sha256 for sha256 in whole if sha256 not in done]
        captions = self._said(np.stack([h.vector for s in to_say for h in whole[s]])) if to_say else []
        if captions is None:
            return set()
        if to_say and not self._write({sha256: whole[sha256] for sha256 in to_say}, captions):
            return set()
        self.memory.flush()
        self.ledger.mark_captioned(list(whole))
        self.report.captioned += len(to_say)
        return some.keys() - whole.keys()

    def _heard(self, contents: Sequence[str]) -> tuple[dict[str, list[Heard]], set[str]]:
        """The windows of each content, by number; and the contents that another machine has captioned."""
        heard: dict[str, list[Heard]] = defaultdict(list)
        done: set[str] = set()
        for record in self.memory.scroll(of_contents(*contents), with_vectors=True):
            said = record.payload
            if record.vector is None:
                continue
            one = Heard(int(said["window"]), float(said["start_s"]), float(said["end_s"]), record.vector)
            heard[str(said["sha256"])].append(one)
            if said.get("captions"):
                done.add(str(said["sha256"]))
        for windows in heard.values():
            windows.sort(key=lambda one: one.window)
        return heard, done

    def _said(self, vectors: FloatArray) -> list[Caption] | None:
        """The captions of vectors ``[n, dim]``; None if the run is to stop."""
        captions: list[Caption] = []
        for first in range(0, len(vectors), WINDOWS_A_STEP):
            if self.flow.stop.is_set():
                return None
            captions += self.captioning.captioner.caption(vectors[first : first + WINDOWS_A_STEP])
        return captions

    def _write(self, heard: dict[str, list[Heard]], captions: Sequence[Caption]) -> bool:
        """Write what is said of these contents; false if the run is to stop before that is done."""
        said: dict[str, list[Run]] = {}
        first = 0
        for sha256, windows in heard.items():
            said[sha256] = runs(windows, captions[first : first + len(windows)])
            first += len(windows)
            for run in said[sha256]:
                where = of_contents(sha256).also(Clause("window", ">=", run.first), Clause("window", "<=", run.last))
                self.memory.set_payload(where, run.payload())
        sure = [run for merged in said.values() for run in merged if run.text and not run.unsure]
        texts = dict.fromkeys((run.text, run.language) for run in sure)
        if not self.captioning.remember([Said(*text, GENERATED) for text in texts], self.flow.stop.is_set):
            return False
        for sha256, merged in said.items():  # last: it says that all is there
            where = of_contents(sha256).also(Clause("window", "=", 0))
            self.memory.set_payload(where, {"captions": of_file(merged) or None})
        return True
