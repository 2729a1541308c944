"""The points of one memory to another, by comparison.

Both are read side by side, by id, in bounded memory; what the copy lacks, or has otherwise, is written. So doing it
again after it was stopped goes on where it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from engine.errors import LibraryError
from engine.memory.base import Memory
from engine.types import Clause, FloatArray, Hit, Point, Record
from indexer.holding import Holding
from indexer.ledger import Ledger
from indexer.payload import of_contents

AT_ONCE = 1024
#: So many windows are searched for in both memories, and the best few answers compared.
ASKED, ANSWERS = 32, 10
#: Cosines agree but for rounding; those of vectors that a server keeps quantised, within this.
TOLERANCE = 1e-3


def bring(
    memory: Memory, known: Ledger, copy: Memory, ledger: Ledger, on_window: Callable[[int], None]
) -> tuple[int, list[Record]]:
    """Write to ``copy`` what it lacks of the whole contents of ``known``; how many windows that were, and a sample.

    ``ledger``, that of the copy, is told of every content before its first vector is written. The sample is of all
    windows, with their vectors.
    """
    sample: list[Record] = []
    news = (
        record
        for record, found in _side_by_side(_sampled(_whole(memory, known, True, on_window), sample), copy)
        if found is None or not _says_the_same(found, record, copy)
    )
    written = 0
    while records := list(islice(news, AT_ONCE)):
        with ledger.transaction():
            for sha256 in {record.payload["sha256"] for record in records}:
                ledger.announce(sha256)
        copy.upsert([Point(record.id, _vector(record), record.payload) for record in records])
        written += len(records)
    return written, sample


def compare(memory: Memory, copy: Memory, ledger: Ledger, on_window: Callable[[int], None]) -> None:
    """Look at every window once more. Raises ``LibraryError`` if one of the contents of ``ledger`` is not the same."""
    windows = 0
    for record, found in _side_by_side(_whole(memory, ledger, False, on_window), copy):
        if found is None or not _says_the_same(found, record, copy):
            raise _difference(f"{_where(record)} {'otherwise' if found else 'not'} in the copy")
        windows += 1
    expected, held = ledger.totals().windows, copy.count()
    if (windows, held) != (expected, expected):
        raise _difference(f"{windows} windows that are the same, of {held} in the copy and {expected} in its ledger")


def ask_both(memory: Memory, copy: Memory, sample: list[Record]) -> int:
    """Search both for the sampled windows, among them; how often. Raises ``LibraryError`` if an answer is different.

    Among windows of one number, for then these are so few that every memory looks at each of them: no graph, and no
    luck, has a part in it.
    """
    contents = of_contents(*{record.payload["sha256"] for record in sample})
    for record in sample:
        where = contents.also(Clause("window", "=", record.payload["window"]))
        ours, theirs = (one.search(_vector(record), ANSWERS, where) for one in (memory, copy))
        if not _alike(ours, theirs):
            raise _difference(f"another answer of the copy to {_where(record)}")
    return len(sample)


def bring_captions(captions: Memory, copy: Memory, alone: bool) -> int:
    """Make ``copy`` remember the same; returns how many captions that are.

    Where the copy is not ``alone`` ours, as on a server, what it remembers besides stays. Raises ``LibraryError`` if
    one is not there afterwards.
    """
    news = (
        Point(record.id, _vector(record), record.payload)
        for record, found in _side_by_side(captions.scroll(with_vectors=True), copy)
        if found is None or found.payload != record.payload
    )
    while points := list(islice(news, AT_ONCE)):
        copy.upsert(points)
    gone = (str(record.payload["sha256"]) for record, found in _side_by_side(copy.scroll(), captions) if found is None)
    while alone and (keys := list(islice(gone, AT_ONCE))):
        copy.delete(of_contents(*keys))
    copy.optimise()
    copy.flush()
    count = 0
    for record, found in _side_by_side(captions.scroll(), copy):
        if found is None or found.payload != record.payload:
            raise _difference(f"the caption {record.payload['text']!r} not in the copy")
        count += 1
    return count


def _whole(memory: Memory, ledger: Ledger, with_vectors: bool, on_window: Callable[[int], None]) -> Iterator[Record]:
    """The points of all contents that ``ledger`` knows as whole; a killed run may have left others."""
    for number, record in enumerate(memory.scroll(with_vectors=with_vectors), 1):
        on_window(number)
        if ledger.is_indexed(record.payload["sha256"]):
            yield record


def _side_by_side(records: Iterator[Record], copy: Memory) -> Iterator[tuple[Record, Record | None]]:
    """Each record with what the copy has under its id."""
    others = copy.scroll()
    other = next(others, None)
    for record in records:
        while other is not None and other.id < record.id:
            other = next(others, None)
        yield record, other if other is not None and other.id == record.id else None


def _sampled(records: Iterator[Record], sample: list[Record]) -> Iterator[Record]:
    """The same records; ``sample`` becomes ``ASKED`` of them, each as likely as any other (reservoir sampling)."""
    chance = random.Random(0)
    for number, record in enumerate(records):
        place = number if number < ASKED else chance.randrange(number + 1)
        if place < ASKED:
            sample[place : place + 1] = [record]
        yield record


def _says_the_same(found: Record, record: Record, copy: Memory) -> bool:
    """Whether a copied payload is right; in a common memory, what names say may come from those of other holders."""
    but = ("category", "words") if isinstance(copy, Holding) else ()
    ours, theirs = ({key: value for key, value in one.payload.items() if key not in but} for one in (record, found))
    return ours == theirs


def _alike(ours: list[Hit], theirs: list[Hit]) -> bool:
    """Whether both are the same hits, but for near ties at the end."""
    if len(ours) != len(theirs):
        return False
    scores = {hit.id: hit.score for hit in theirs}
    return all(abs(scores.get(hit.id, ours[-1].score) - hit.score) <= TOLERANCE for hit in ours)


def _vector(record: Record) -> FloatArray:
    assert record.vector is not None, "asked for with vectors"
    return record.vector


def _where(record: Record) -> str:
    return f"window {record.payload['window']} of {record.payload['paths'][0]}"


def _difference(found: str) -> LibraryError:
    return LibraryError(
        found,
        "the copy to hold and to answer the same",
        "do the same again; if that does not help, copy to a new place",
    )
