"""Points from one memory to another: by id, in bounded memory, and what counts as the same answer."""

from __future__ import annotations

import tracemalloc
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import LibraryError
from engine.memory.exact import ExactMemory
from engine.types import Filter, Hit, Point, Record
from indexer.ledger import Ledger
from indexer.transfer import ASKED, AT_ONCE, _alike, _sampled, ask_both, bring, compare

SPACE, DIM = "tiny@0123456789ab", 8
WINDOWS_A_CONTENT = 5


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    both = Ledger(tmp_path / "known.sqlite"), Ledger(tmp_path / "copied.sqlite")
    yield both
    for ledger in both:
        ledger.close()


def point(number: int, dim: int = DIM) -> Point:
    content, window = divmod(number, WINDOWS_A_CONTENT)
    vector = np.random.default_rng(number).standard_normal(dim).astype(np.float32)
    payload = {"sha256": f"{content:04}", "window": window, "paths": [f"/{content}.wav"]}
    return Point(str(uuid.UUID(int=number * 0x1_0001)), vector / np.linalg.norm(vector), payload)


def tell(ledger: Ledger, points: int) -> None:
    """What the ledger would know of so many points."""
    with ledger.transaction():
        for content in range(points // WINDOWS_A_CONTENT):
            ledger.complete(f"{content:04}", WINDOWS_A_CONTENT, 1.0)
            ledger.assign(Path(f"/{content}.wav"), 1, 1, f"{content:04}")


def memory_of(points: Sequence[Point]) -> ExactMemory:
    memory = ExactMemory()
    memory.ensure_space(SPACE, DIM)
    memory.upsert(points)
    return memory


def test_only_what_is_missing_or_different_is_written(ledgers: tuple[Ledger, Ledger]) -> None:
    known, ledger = ledgers
    points = [point(number) for number in range(100)]
    tell(known, 100)
    changed = Point(points[40].id, points[40].vector, {**points[40].payload, "paths": ["/old.wav"]})
    memory, copy = memory_of(points), memory_of([*points[:30:2], changed])
    assert bring(memory, known, copy, ledger, lambda _: None)[0] == 100 - 15
    ledger.adopt(known)
    compare(memory, copy, ledger, lambda _: None)
    assert bring(memory, known, copy, ledger, lambda _: None)[0] == 0


def test_contents_are_announced_before_their_points_are_written(ledgers: tuple[Ledger, Ledger]) -> None:
    known, ledger = ledgers
    tell(known, 20)
    memory, copy = memory_of([point(number) for number in range(20)]), memory_of([])

    class Watched(ExactMemory):
        def upsert(self, points: Sequence[Point]) -> None:
            assert {p.payload["sha256"] for p in points} <= set(ledger.orphans(100))
            copy.upsert(points)

        def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
            return copy.scroll(where, with_vectors)

    bring(memory, known, Watched(), ledger, lambda _: None)
    assert copy.count() == 20


class Stream:
    """A memory that makes its points as they are read, and forgets what is written."""

    def __init__(self, points: int, dim: int) -> None:
        self.points, self.dim, self.written = points, dim, 0

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        for number in range(self.points):
            made = point(number, self.dim)
            yield Record(made.id, made.payload, made.vector if with_vectors else None)

    def upsert(self, points: Sequence[Point]) -> None:
        self.written += len(points)

    def count(self, where: Filter | None = None) -> int:
        return self.points


def test_points_stream(ledgers: tuple[Ledger, Ledger]) -> None:
    """6,000 vectors of 16 kB are 98 MB, of which a batch or two are in memory at once."""
    known, ledger = ledgers
    points, dim = 6000, 4096
    tell(known, points)
    source: Any = Stream(points, dim)
    empty: Any = Stream(0, dim)
    tracemalloc.start()
    try:
        written, sample = bring(source, known, empty, ledger, lambda _: None)
        ledger.adopt(known)
        compare(source, source, ledger, lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert written == empty.written == points
    assert len(sample) == ASKED
    assert peak < 3 * AT_ONCE * dim * 4


def test_a_sample_is_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.transfer.ASKED", 3)
    drawn: Counter[str] = Counter()
    for shift in range(200):  # the chance is seeded, so the records move
        sample: list[Record] = []
        names = [str((number + shift) % 20) for number in range(20)]
        assert [r.id for r in _sampled((Record(name, {}) for name in names), sample)] == names
        assert len({record.id for record in sample}) == 3
        drawn.update(record.id for record in sample)
    assert len(drawn) == 20
    few: list[Record] = []
    list(_sampled(iter([Record("only", {})]), few))
    assert [record.id for record in few] == ["only"]


def hits(*scored: tuple[str, float]) -> list[Hit]:
    return [Hit(name, score, {}) for name, score in scored]


@pytest.mark.parametrize(
    ("theirs", "same"),
    [
        (hits(("a", 0.9), ("b", 0.5)), True),
        (hits(("a", 0.9004), ("b", 0.4996)), True),
        (hits(("a", 0.9), ("c", 0.5)), True),  # a tie at the end, cut elsewhere
        (hits(("a", 0.9), ("b", 0.4)), False),
        (hits(("c", 0.9), ("b", 0.5)), False),
        (hits(("a", 0.9)), False),
        ([], False),
    ],
)
def test_answers_are_alike_but_for_rounding_and_ties_at_the_end(theirs: list[Hit], same: bool) -> None:
    assert _alike(hits(("a", 0.9), ("b", 0.5)), theirs) is same


def test_another_answer_is_an_error(ledgers: tuple[Ledger, Ledger]) -> None:
    points = [point(number) for number in range(50)]
    turned = [Point(p.id, np.roll(p.vector, 1), p.payload) for p in points]
    sample = list(memory_of(points[::3]).scroll(with_vectors=True))
    assert ask_both(memory_of(points), memory_of(points), sample) == 17
    with pytest.raises(LibraryError, match="another answer of the copy to window"):
        ask_both(memory_of(points), memory_of(turned), sample)
