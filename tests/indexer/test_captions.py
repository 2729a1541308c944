"""Captioning on ingest: what is heard is said, once, whatever stops the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.fakes import FakeEncoders
from engine.memory.captions import Said
from engine.memory.exact import ExactMemory
from engine.types import Caption, Clause, Filter, FloatArray, Point, Record, point_id
from indexer.captions import WINDOWS_A_STEP, WINDOWS_AT_ONCE, Captioning, Heard, of_file, runs
from indexer.ledger import Ledger
from indexer.pipeline import IndexOptions, index
from indexer.report import IndexReport
from tests.sounds import tone, write_sound

ENCODERS = FakeEncoders()
WORDS = ("band125", "band500", "band2000", "silence")


class FakeCaptioner:
    """Says which band a vector is; nothing of silence. ``before`` is called with each batch."""

    def __init__(self, name: str = "") -> None:
        self.windows, self.identity = 0, name
        self.before = lambda: None
        self._vectors = ENCODERS.encode_text(WORDS)

    def caption(self, vectors: FloatArray) -> list[Caption]:
        self.before()
        self.windows += len(vectors)
        best = (vectors @ self._vectors.T).argmax(axis=1)
        words = ["" if WORDS[n] == "silence" else f"a tone of {WORDS[n]}" for n in best]
        return [Caption(text, 0.9 if text else 0.0, "eng") for text in words]


class CountedMemory(ExactMemory):
    """Knows how many vectors were asked for at once."""

    most = 0

    def scroll(self, where: Filter | None = None, with_vectors: bool = False) -> Iterator[Record]:
        records = list(super().scroll(where, with_vectors))
        if with_vectors:
            self.most = max(self.most, len(records))
        return iter(records)


class Library:
    def __init__(self, folder: Path) -> None:
        self.sounds = folder / "sounds"
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.memory = CountedMemory()
        self.memory.ensure_space(ENCODERS.space.space_id, ENCODERS.space.dim)
        self.captioner = FakeCaptioner()
        self.remembered: list[Said] = []

    def index(self, *roots: Path, caption: bool = True, only_again: bool = False) -> IndexReport:
        captions = Captioning(self.captioner, self.remember, self.captioner.identity, only_again) if caption else None
        options = IndexOptions(jobs=1, captions=captions)
        return index(roots or [self.sounds], ENCODERS, self.memory, self.ledger, options)

    def remember(self, captions: Sequence[Said], given_up: Callable[[], bool]) -> bool:
        self.remembered += captions
        return not given_up()

    def said(self, name: str) -> list[str | None]:
        """The captions of a file's windows, in order."""
        records = [r.payload for r in self.memory.scroll() if r.payload["paths"][0].endswith(name)]
        return [payload.get("caption") for payload in sorted(records, key=lambda payload: payload["window"])]

    def first(self, name: str) -> Sequence[str]:
        """What is said of a whole file."""
        where = Filter((Clause("window", "=", 0), Clause("paths", "~", name)))
        return next(iter(self.memory.scroll(where))).payload.get("captions", [])


@pytest.fixture
def library(tmp_path: Path):
    library = Library(tmp_path)
    for hz in (125, 500):
        write_sound(library.sounds / f"{hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000)
    both = np.concatenate(
        [tone(3.0, rate_hz=8000, hz=125), np.zeros(16_000, np.float32), tone(3.0, rate_hz=8000, hz=2000)]
    )
    write_sound(library.sounds / "both.wav", both, rate_hz=8000)
    yield library
    library.ledger.close()


def is_captioned(library: Library) -> None:
    assert set(library.said("125.wav")) == {"a tone of band125"}
    assert set(library.said("500.wav")) == {"a tone of band500"}
    both = library.said("both.wav")
    assert (both[0], both[-1]) == ("a tone of band125", "a tone of band2000")
    assert "silence" in both
    assert list(library.first("both.wav")) == ["a tone of band125", "silence", "a tone of band2000"]
    assert {one.source for one in library.remembered} == {"generated"}
    assert {one.text for one in library.remembered} == {"silence", *(f"a tone of {word}" for word in WORDS[:3])}
    assert library.ledger.uncaptioned([library.sounds], 10) == {}


def test_what_is_heard_is_said_and_found_by_its_words(library: Library):
    report = library.index()
    assert (report.indexed, report.captioned) == (3, 3)
    assert report.to_dict()["captioned"] == 3
    assert report.stages_s["caption"] >= 0
    is_captioned(library)
    found = library.memory.search_words("BAND2000", 5)
    assert [hit.payload["paths"][0].rpartition("/")[2] for hit in found] == ["both.wav"]
    assert "caption_score" in found[0].payload


def test_an_indexed_library_is_only_captioned_and_only_once(library: Library):
    assert library.index(caption=False).captioned == 0
    assert library.said("125.wav") == [None, None, None]
    again = library.index()
    assert (again.indexed, again.windows, again.skipped, again.captioned) == (0, 0, 3, 3)
    is_captioned(library)
    windows = library.captioner.windows
    assert library.index().captioned == 0
    silent = library.memory.count(Filter((Clause("silent", "=", 1),)))
    assert silent
    assert library.captioner.windows == windows == library.memory.count() - silent


def test_only_what_lies_below_the_paths_is_captioned(library: Library):
    library.index(caption=False)
    assert library.index(library.sounds / "125.wav").captioned == 1
    assert set(library.said("500.wav")) == {None}
    assert library.index(library.sounds / "500.wav", library.sounds / "both.wav").captioned == 2
    is_captioned(library)


def test_what_is_heard_anew_is_captioned_anew(library: Library):
    library.index()
    write_sound(library.sounds / "125.wav", tone(2.5, rate_hz=8000, hz=130), rate_hz=8000)
    write_sound(library.sounds / "new.wav", tone(1.5, rate_hz=8000, hz=2000), rate_hz=8000)
    (library.sounds / "500.wav").rename(library.sounds / "moved.wav")
    library.memory.delete(Filter((Clause("paths", "~", "both.wav"), Clause("window", "=", 3))))  # lost
    report = library.index()
    assert report.captioned <= 3
    assert set(library.said("moved.wav")) == {"a tone of band500"}
    assert set(library.said("new.wav")) == {"a tone of band2000"}
    assert library.said("both.wav")[3] == "a tone of band125"
    assert library.ledger.uncaptioned([library.sounds], 10) == {}


def test_hearing_does_not_wait_for_captions(library: Library):
    """The captioner is held until all has been heard and saved."""
    saved = threading.Event()
    library.index(library.sounds / "125.wav", caption=False)
    waited: list[bool] = []
    library.captioner.before = lambda: waited.append(saved.wait(60))
    mark = library.ledger.complete

    def complete(*values: object) -> None:
        mark(*values)  # type: ignore[arg-type]
        saved.set()

    library.ledger.complete = complete  # type: ignore[method-assign,assignment]
    report = library.index()
    assert waited
    assert all(waited)
    assert (report.indexed, report.captioned) == (2, 3)
    is_captioned(library)


@pytest.mark.parametrize("at", range(12))
def test_a_run_that_breaks_off_anywhere_loses_and_doubles_nothing(library: Library, at: int):
    """Whatever use of the memory or of the ledger fails, the next run completes it, onto the same points."""
    library.index(caption=False)
    left = [at]

    def breaking(what):
        def call(*values, **named):
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return what(*values, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("scroll", "set_payload", "flush"):
            patch.setattr(library.memory, name, breaking(getattr(library.memory, name)))
        for name in ("uncaptioned", "mark_captioned"):
            patch.setattr(library.ledger, name, breaking(getattr(library.ledger, name)))
        patch.setattr(library.captioner, "caption", breaking(library.captioner.caption))
        try:
            library.index()
        except KeyboardInterrupt:
            assert left[0] < 0
    count = library.memory.count()
    report = library.index()
    assert report.indexed == 0
    assert library.memory.count() == count
    is_captioned(library)


def test_a_captioner_that_fails_stops_the_run_and_what_was_heard_stays(library: Library):
    def fail() -> None:
        raise RuntimeError("out of words")

    library.captioner.before = fail
    with pytest.raises(RuntimeError, match="out of words"):
        library.index()
    library.captioner.before = lambda: None
    library.index()
    is_captioned(library)
    assert not [t for t in threading.enumerate() if t.name.startswith("earshot-caption")]


def test_neighbours_that_say_the_same_are_one_run():
    heard = [Heard(n, n * 0.5, n * 0.5 + 1) for n in range(6)]
    texts = ["a", "a", "", "b", "b", "a"]
    captions = [Caption(text, n / 10, "eng") for n, text in enumerate(texts)]
    merged = runs(heard, captions)
    assert [(r.first, r.last, r.start_s, r.end_s, r.text, r.score) for r in merged] == [
        (0, 1, 0.0, 1.5, "a", 0.1),
        (2, 2, 1.0, 2.0, "", 0.2),
        (3, 4, 1.5, 3.0, "b", 0.4),
        (5, 5, 2.5, 3.5, "a", 0.5),
    ]
    assert of_file(merged) == ["a", "b"]
    assert runs([], []) == of_file([]) == []


def test_what_is_unsure_stays_on_its_window(library: Library):
    """With its score; nothing is found by its words, nothing remembers it."""

    class Unsure(FakeCaptioner):
        def caption(self, vectors: FloatArray) -> list[Caption]:
            said = super().caption(vectors)
            return [replace(one, score=0.02, unsure=True) if "2000" in one.text else one for one in said]

    library.captioner = Unsure()
    library.index()
    assert library.said("both.wav")[-1] == "a tone of band2000"
    records = [r.payload for r in library.memory.scroll(Filter((Clause("caption", "~", "band2000"),)))]
    assert {(r["caption_score"], r["caption_unsure"], r["caption_language"]) for r in records} == {(0.02, True, "eng")}
    assert list(library.first("both.wav")) == ["a tone of band125", "silence"]
    assert library.memory.search_words("band2000", 5) == []
    assert "a tone of band2000" not in {one.text for one in library.remembered}
    assert library.ledger.uncaptioned([library.sounds], 10) == {}


def test_a_run_is_sure_where_one_of_its_windows_is():
    heard = [Heard(n, n * 0.5, n * 0.5 + 1) for n in range(4)]
    captions = [Caption("a", 0.1, "eng", unsure=True), Caption("a", 0.6, "eng")]
    captions += [Caption("b", 0.2, "eng", unsure=True), Caption("b", 0.1, "eng", unsure=True)]
    sure, unsure = runs(heard, captions)
    assert (sure.text, sure.unsure, sure.score) == ("a", False, 0.6)
    assert (unsure.text, unsure.unsure, unsure.score) == ("b", True, 0.2)
    assert of_file([sure, unsure]) == ["a"]


def test_a_file_keeps_the_captions_it_says_longest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("indexer.captions.MOST_CAPTIONS", 2)
    heard = [Heard(n, float(n), n + 1.0) for n in range(6)]
    captions = [Caption(text, 1.0, "eng") for text in "abbccc"]
    assert of_file(runs(heard, captions)) == ["b", "c"]


WINDOWS = 10_000
SAID = ("caption", "caption_score", "caption_language", "caption_unsure", "caption_by")


@pytest.fixture
def long(tmp_path: Path):
    """A library of one sound of 10,000 windows, heard already: a band for 150 windows, then the next, and silence."""
    library = Library(tmp_path)
    path, sha256 = tmp_path / "sounds" / "long.wav", "1" * 64
    vectors = ENCODERS.encode_text(WORDS)
    library.memory.upsert(
        [
            Point(
                point_id(sha256, ENCODERS.space.space_id, n),
                vectors[n // 150 % len(WORDS)],
                {"sha256": sha256, "paths": [str(path)], "window": n, "start_s": n * 0.5, "end_s": n * 0.5 + 1.0},
            )
            for n in range(WINDOWS)
        ]
    )
    write_sound(path)
    stat = path.stat()
    library.ledger.announce(sha256)
    library.ledger.complete(sha256, WINDOWS, WINDOWS * 0.5)
    library.ledger.assign(path, stat.st_size, stat.st_mtime_ns, sha256)
    yield library
    library.ledger.close()


def is_said(library: Library) -> None:
    """Of each of the 10,000 windows what it is, once, and of the file each caption once."""
    expected = ["" if WORDS[n // 150 % 4] == "silence" else f"a tone of {WORDS[n // 150 % 4]}" for n in range(WINDOWS)]
    assert [text or "" for text in library.said("long.wav")] == expected
    assert {one.payload.get("caption_by", "") for one in library.memory.scroll()} == {library.captioner.identity}
    assert list(library.first("long.wav")) == [f"a tone of {word}" for word in WORDS[:3]]
    assert sorted(one.text for one in set(library.remembered)) == sorted(f"a tone of {word}" for word in WORDS[:3])
    assert library.memory.count() == WINDOWS
    assert library.ledger.uncaptioned([library.sounds], 10) == {}


def test_ten_thousand_windows_of_one_sound_are_read_a_few_at_a_time(long: Library):
    report = long.index()
    assert (report.captioned, report.indexed, long.captioner.windows) == (1, 0, WINDOWS)
    assert long.memory.most <= WINDOWS_AT_ONCE
    is_said(long)


def test_killed_in_the_middle_of_a_long_sound_it_goes_on_there(long: Library):
    """What the captioner has said of it is neither said again nor lost."""
    long.captioner = FakeCaptioner("bands#1")

    def broken() -> None:
        if long.captioner.windows >= WINDOWS // 2:
            raise RuntimeError("killed")

    long.captioner.before = broken
    with pytest.raises(RuntimeError, match="killed"):
        long.index()
    assert long.ledger.uncaptioned([long.sounds], 10) == {"1" * 64: WINDOWS}
    assert long.first("long.wav") == []
    said = sum(one.payload.get("caption_by") == "bands#1" for one in long.memory.scroll())
    assert WINDOWS // 2 - WINDOWS_AT_ONCE <= said <= WINDOWS // 2
    long.memory.set_payload(Filter((Clause("window", "=", 1000),)), dict.fromkeys(SAID))  # what no disk had yet
    first, long.captioner = long.captioner.windows, FakeCaptioner("bands#1")
    long.index()
    assert long.captioner.windows == WINDOWS - said + 1
    assert first + long.captioner.windows <= WINDOWS + WINDOWS_AT_ONCE + WINDOWS_A_STEP
    is_said(long)


def test_only_what_another_captioner_said_is_said_again(library: Library):
    library.captioner = FakeCaptioner("bands#1")
    library.index(library.sounds / "125.wav")
    library.ledger.say_again([library.sounds], "bands#1")
    assert library.index(library.sounds / "125.wav").captioned == 0
    library.captioner = FakeCaptioner("bands#2")
    assert library.index(library.sounds / "500.wav").captioned_otherwise == 0
    assert library.index(library.sounds / "500.wav", library.sounds / "125.wav").captioned_otherwise == 1
    library.ledger.say_again([library.sounds], "bands#2")
    again = library.index(library.sounds / "125.wav", library.sounds / "500.wav")
    assert (again.captioned, library.captioner.windows) == (1, 6)
    assert {one.payload["caption_by"] for one in library.memory.scroll()} == {"bands#2"}
    library.ledger.say_again([library.sounds], "")  # nobody knows who: all
    assert library.index(library.sounds / "125.wav", library.sounds / "500.wav").captioned == 2


def test_of_what_is_to_be_said_again_alone(library: Library):
    library.index(library.sounds / "125.wav", library.sounds / "500.wav")
    library.ledger.say_again([library.sounds / "500.wav"], "")
    library.index(caption=False)
    assert library.index(only_again=True).captioned == 1
    assert set(library.said("both.wav")) == {None}


def test_what_has_an_event_by_its_samples_is_said_to_have_one(library: Library):
    """Of others, heard before anybody looked, and of one alone between noise, the captioner judges."""
    asked: list[int] = []

    class Heeding(FakeCaptioner):
        def caption_events(self, vectors: FloatArray) -> list[Caption]:
            asked.append(len(vectors))
            return [replace(one, text=f"surely {one.text}") for one in self.caption(vectors)]

    library.index(caption=False)
    where = Filter((Clause("paths", "~", "both.wav"),))
    points = library.memory.count(where)
    for number in (0, 2):
        library.memory.set_payload(where.also(Clause("window", "=", number)), {"silent": None, "noise": 1})
    library.memory.set_payload(where.also(Clause("window", "=", points - 1)), {"silent": None})
    library.captioner = Heeding()
    library.index()
    assert set(library.said("125.wav")) == {"surely a tone of band125"}
    said = library.said("both.wav")
    assert (said[0], said[1], said[2]) == ("steady noise", "a tone of band125", "steady noise")
    assert said[-1] == "a tone of band2000"
    assert asked
