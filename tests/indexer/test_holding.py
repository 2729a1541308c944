"""Two indexers, one memory: nothing is doubled, and nobody loses what he holds by what the other does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from engine.memory.base import CommonMemory
from engine.memory.exact import ExactMemory
from engine.memory.server import ServerMemory
from engine.search import find_moments
from engine.types import Clause, Filter
from indexer import writer
from indexer.holding import Holding
from indexer.pipeline import IndexOptions, index
from tests.engine.memory.stub_qdrant import Stub
from tests.indexer.bench import Bench

WINDOWS = 3  # of two seconds


class KilledError(BaseException):
    """What a kill looks like from inside: nothing more reaches the memory."""


class Watched:
    """A common memory; before its ``number``-th use from outside, something else happens."""

    def __init__(self, memory: CommonMemory) -> None:
        self._memory = memory
        self._lock = threading.RLock()
        self.uses = 0
        self.number = -1
        self.happens: Callable[[], None] = lambda: None
        self.dead = False

    def until(self, given_up: Callable[[], bool]) -> AbstractContextManager[None]:
        return nullcontext()

    def __getattr__(self, name: str) -> Any:
        def use(*values: Any, **named: Any) -> Any:
            with self._lock:
                if self.dead:
                    raise KilledError
                self.uses += 1
                if self.uses == self.number:
                    self.happens()
                answer = getattr(self._memory, name)(*values, **named)
                return iter(list(answer)) if name == "scroll" else answer

        return use


class Two:
    """Indexers ``a`` and ``b``, each with its folder and its ledger, and what they fill."""

    def __init__(self, folder: Path, common: CommonMemory) -> None:
        self.common = common
        self.watched = Watched(common)
        self.a, self.b = self._bench(folder / "a", self.watched), self._bench(folder / "b", common)
        common.ensure_space(self.a.encoders.space.space_id, self.a.encoders.space.dim)

    def _bench(self, folder: Path, memory: Any) -> Bench:
        folder.mkdir()
        bench = Bench(folder)
        bench.memory = Holding(memory, folder.name)
        return bench

    def run(self, which: Bench) -> Any:
        return which.index(prune=True, prune_anyway=True, jobs=1)

    def sounds(self) -> None:
        """One sound that both have, each under its own names, and one that each has alone."""
        for bench, hz in ((self.a, 125.0), (self.b, 1000.0)):
            bench.write("same.wav")
            bench.write("own.wav", hz=hz)

    def check(self) -> None:
        """The memory holds what lies in both folders, once each, and each ledger agrees with it."""
        files = [path for bench in (self.a, self.b) for path in bench.sounds.iterdir()]
        contents: dict[bytes, list[str]] = {}
        for path in files:
            contents.setdefault(path.read_bytes(), []).append(str(path))
        points = list(self.common.scroll())
        assert len(points) == WINDOWS * len(contents)
        assert {tuple(p.payload["paths"]) for p in points} == {tuple(sorted(paths)) for paths in contents.values()}
        assert all("duration_s" in p.payload and p.payload["windows"] == WINDOWS for p in points)
        for bench in (self.a, self.b):
            ours = list(bench.memory.scroll())
            assert bench.memory.count() == len(ours) == bench.ledger.totals().windows
            held = {path for record in ours for path in record.payload["paths"]}
            assert held == {str(path) for path in bench.sounds.iterdir()}
            assert all({"holders", "places", "held"}.isdisjoint(record.payload) for record in ours)


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.stop()


@pytest.fixture(params=["exact", "server"])
def two(request: pytest.FixtureRequest, tmp_path: Path, server: Stub) -> Iterator[Two]:
    common = ExactMemory() if request.param == "exact" else ServerMemory(server.url, name=tmp_path.name)
    two = Two(tmp_path, common)
    yield two
    for bench in (two.a, two.b):
        bench.ledger.close()
    common.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[[], Two]]:
    """Makes one pair after another, each in a folder of its own."""
    made: list[Two] = []

    def make() -> Two:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Two(folder, ExactMemory()))
        made[-1].sounds()
        return made[-1]

    yield make
    for two in made:
        two.a.ledger.close()
        two.b.ledger.close()


def test_the_same_sound_on_two_machines_is_heard_once_and_has_both_paths(two: Two) -> None:
    two.sounds()
    first, second = two.run(two.a), two.run(two.b)
    assert (first.indexed, first.windows) == (2, 2 * WINDOWS)
    assert (second.indexed, second.copies, second.windows) == (2, 1, WINDOWS), "only its own had to be heard"
    two.check()
    for which in (two.a, two.b):
        again = two.run(which)
        assert (again.lost, again.pruned, again.skipped) == (0, 0, 2)
    two.check()
    vectors = two.a.encoders.encode_text(["band500"])
    for memory in (two.a.memory, two.b.memory, two.common):
        best = find_moments(memory, vectors, 1, two.a.encoders.calibration["text"])[0]
        assert best.paths == (str(two.a.sounds / "same.wav"), str(two.b.sounds / "same.wav"))


def test_who_forgets_his_file_leaves_the_others(two: Two) -> None:
    two.sounds()
    two.run(two.a)
    two.run(two.b)
    (two.a.sounds / "same.wav").unlink()
    assert two.run(two.a).pruned == 1
    two.check()
    assert two.common.count(Filter((Clause("paths", "~", "same"),))) == WINDOWS
    (two.b.sounds / "same.wav").unlink()
    two.run(two.b)
    two.check()


def test_a_rename_here_does_not_touch_the_name_there(two: Two) -> None:
    two.sounds()
    two.run(two.a)
    two.run(two.b)
    (two.a.sounds / "same.wav").rename(two.a.sounds / "Thunder Storm.wav")
    assert two.run(two.a).windows == 0
    two.check()
    storm = next(two.common.scroll(Filter((Clause("paths", "~", "thunder"),))))
    assert "thunder storm" in storm.payload["words"]
    assert "same" in storm.payload["words"]


def test_a_folder_that_both_see_is_heard_once(two: Two) -> None:
    """Two machines with one network disk: the same paths, of which one machine's stay when the other lets go."""
    two.a.write("same.wav")
    two.run(two.a)
    report = index([two.a.sounds], two.b.encoders, two.b.memory, two.b.ledger, IndexOptions())
    assert (report.indexed, report.windows) == (1, 0)
    assert {tuple(r.payload["paths"]) for r in two.common.scroll()} == {(str(two.a.sounds / "same.wav"),)}
    two.a.memory.delete(Filter((Clause("sha256", "!=", ""),)))
    assert two.common.count() == two.b.memory.count() == WINDOWS
    assert {tuple(r.payload["paths"]) for r in two.common.scroll()} == {(str(two.a.sounds / "same.wav"),)}


def test_a_long_file_is_shared_as_well(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "HELD_WINDOWS", 8)
    for bench in (two.a, two.b):
        bench.write("long.wav", 60.0)
    two.run(two.a)
    report = two.run(two.b)
    assert (report.copies, report.windows) == (1, 0)
    assert two.common.count() == two.a.memory.count() == two.b.memory.count() == 119
    assert {r.payload["windows"] for r in two.common.scroll()} == {119}


def nothing(two: Two) -> None:
    pass


def both_heard(two: Two) -> None:
    two.run(two.a)
    two.run(two.b)


def a_heard(two: Two) -> None:
    two.run(two.a)


def changed(how: str, which: Bench) -> None:
    """What happens to the file that both have, on one side, before it is heard (again)."""
    path = which.sounds / "same.wav"
    if how == "gone":
        path.unlink()
    elif how == "renamed":
        path.rename(path.with_name("renamed.wav"))


MEETINGS = [
    (nothing, "heard", "heard"),
    (a_heard, "gone", "heard"),
    (a_heard, "renamed", "heard"),
    (both_heard, "gone", "gone"),
    (both_heard, "gone", "renamed"),
    (both_heard, "renamed", "gone"),
    (both_heard, "renamed", "renamed"),
]


@pytest.mark.parametrize(("before", "of_a", "of_b"), MEETINGS, ids=lambda value: getattr(value, "__name__", value))
def test_whenever_the_other_comes_in_between_all_is_right_in_the_end(
    fresh: Callable[[], Two], before: Callable[[Two], None], of_a: str, of_b: str
) -> None:
    """All of b's run between any two uses of the memory in a's run."""
    number, uses = 1, 1
    while number <= uses:
        two = fresh()
        before(two)
        changed(of_a, two.a)
        changed(of_b, two.b)
        two.watched.uses, two.watched.number = 0, number
        two.watched.happens = lambda two=two: two.run(two.b)
        two.run(two.a)
        uses = two.watched.uses
        two.watched.number = -1
        if (of_a, of_b) != ("gone", "heard"):  # there b may have relied on what a removed meanwhile; its next run knows
            two.check()
        two.run(two.b)
        two.run(two.a)
        two.check()
        number += 1
    assert number > 5


@pytest.mark.parametrize(("before", "of_a", "of_b"), MEETINGS, ids=lambda value: getattr(value, "__name__", value))
def test_killed_anywhere_while_the_other_goes_on_all_is_right_after_the_next_run(
    fresh: Callable[[], Two], before: Callable[[Two], None], of_a: str, of_b: str
) -> None:
    def die(two: Two) -> None:
        two.watched.dead = True
        raise KilledError

    number, killed = 1, True
    while killed:
        two = fresh()
        before(two)
        changed(of_a, two.a)
        changed(of_b, two.b)
        two.watched.uses, two.watched.number = 0, number
        two.watched.happens = lambda two=two: die(two)
        try:
            two.run(two.a)
            killed = False
        except KilledError:
            two.watched.dead = False
        two.watched.number = -1
        two.run(two.b)
        two.run(two.a)
        two.check()
        number += 1
    assert number > 5
