"""What is wrong with training data, line by line, before anything runs. Never imports torch."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import AudioError
from trainer.examples import Example, Place, Problem
from trainer.manifest import read_data

#: Only lengths are wanted; the lower the rate, the less there is to resample to.
_RATE_HZ = 16_000
_T = TypeVar("_T")
_R = TypeVar("_R")

#: ``(what is being done, clips done, clips in all)``.
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What there is to learn from (``hours`` of sound that can be heard, each content once), and what is wrong."""

    source: Path
    layout: str
    clips: int
    labelled: int
    hours: float
    captions: dict[str, int]
    splits: dict[str, int]
    ignored: tuple[str, ...]
    problems: list[Problem]

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {
            "source": str(self.source),
            "layout": self.layout,
            "clips": self.clips,
            "labelled": self.labelled,
            "hours": round(self.hours, 4),
            "captions": self.captions,
            "splits": self.splits,
            "ignored": list(self.ignored),
            "problems": [
                {"file": str(one.place.file), "line": one.place.line or None, "kind": one.kind, "message": one.message}
                for one in self.problems
            ],
        }


def check(path: Path, on_progress: OnProgress = lambda step, done, total: None) -> CheckReport:
    """Read training data, hash and decode every sound, and say what is wrong.

    Raises ``DataError`` where there is nothing that could be read.
    """
    data = read_data(path)
    problems = list(data.problems)
    hashes = _hashes(data.examples, problems, on_progress)
    problems += _repeats(data.examples, hashes)
    hours = _hours(hashes, problems, on_progress)
    return CheckReport(
        source=data.source,
        layout=data.layout,
        clips=len(data.examples),
        labelled=sum(bool(example.captions) for example in data.examples),
        hours=hours,
        captions=_counts(caption.lang for example in data.examples for caption in example.captions),
        splits=_counts(example.split for example in data.examples),
        ignored=data.ignored,
        problems=sorted(problems, key=lambda problem: problem.place),
    )


def _hashes(examples: list[Example], problems: list[Problem], on_progress: OnProgress) -> dict[Example, str]:
    """The content's sha256 of each example that can be read; the others are noted."""
    found: dict[Example, str] = {}

    def hashed(example: Example) -> str | AudioError:
        try:
            return example.content_sha256()
        except AudioError as error:
            return error

    for example, sha in _in_threads("hashing", hashed, examples, on_progress):
        if isinstance(sha, str):
            found[example] = sha
        elif isinstance(sha.__cause__, FileNotFoundError):
            message = f"found no {example.audio}; correct the path, or remove the row"
            problems.append(Problem(example.place, "missing file", message))
        else:
            problems.append(_unheard(example, sha))
    return found


def _repeats(examples: list[Example], hashes: dict[Example, str]) -> Iterator[Problem]:
    """One content in two places: on two splits, what is learnt would be asked; on one, it counts twice."""
    first: dict[str, Example] = {}
    for example in examples:
        if (sha := hashes.get(example)) is None:
            continue
        other = first.setdefault(sha, example)
        if other is example:
            continue
        where = f"the same sound as {other.name} ({other.place}, split {other.split})"
        if other.split != example.split:
            message = f"found {where}, here on {example.split}; keep it on one"
            yield Problem(example.place, "one clip on two splits", message)
        else:
            yield Problem(example.place, "duplicate sound", f"found {where}; give the captions to one of them")


def _hours(hashes: dict[Example, str], problems: list[Problem], on_progress: OnProgress) -> float:
    """Hours of sound, each content decoded once; what can't be is noted wherever it is named."""
    places: dict[str, list[Example]] = defaultdict(list)
    for example, sha in hashes.items():
        places[sha].append(example)

    def seconds(sha: str) -> float | AudioError:
        try:
            samples = sum(map(len, places[sha][0].open(_RATE_HZ).blocks))
            return samples / _RATE_HZ if samples else AudioError("no samples", "a sound", "remove the row")
        except AudioError as error:
            return error

    hours = 0.0
    for sha, found in _in_threads("decoding", seconds, list(places), on_progress):
        if isinstance(found, float):
            hours += found / 3600
        else:
            problems += [_unheard(example, found) for example in places[sha]]
    return hours


def _unheard(example: Example, error: AudioError) -> Problem:
    named = "" if example.place == Place(example.audio) and not example.member else f"{example.name}: "
    return Problem(example.place, "unreadable audio", f"{named}{error}")


def _in_threads(
    step: str, work: Callable[[_T], _R], items: list[_T], on_progress: OnProgress
) -> Iterator[tuple[_T, _R]]:
    """Each item with what ``work`` makes of it, in order."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        try:
            for done, (item, result) in enumerate(zip(items, threads.map(work, items), strict=True), 1):
                on_progress(step, done, len(items))
                yield item, result
        finally:
            threads.shutdown(cancel_futures=True)  # of an interrupted check, nothing more is heard


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items(), key=lambda item: -item[1]))
