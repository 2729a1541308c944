"""From a query to moments, against brute force over everything remembered."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.bundle import Calibration
from engine.encoders import normalise
from engine.errors import BundleError, QueryError
from engine.memory.base import FIELDS, Memory
from engine.memory.exact import ExactMemory
from engine.search import MOMENT_SHARE, calibration_for, find_moments, parse_filter
from engine.types import Clause, Filter, Hit, Moment, Point

CURVE = Calibration(8.0, -3.0, 0.5)
QUERY = np.array([1, 0, 0, 0], np.float32)


class CountingMemory(ExactMemory):
    """An oracle that counts how often it was asked, and for how many hits."""

    asked = 0
    wanted = 0

    def search(self, vector: np.ndarray, k: int, where: Filter | None = None) -> list[Hit]:
        self.asked += 1
        self.wanted = max(self.wanted, k)
        return super().search(vector, k, where)


def towards(cosine: float) -> np.ndarray:
    """A unit vector at this cosine from ``QUERY``."""
    return np.array([cosine, math.sqrt(max(0.0, 1 - cosine * cosine)), 0, 0], np.float32)


def remember(files: dict[str, Sequence[float]], **payload: object) -> CountingMemory:
    """A memory of files whose windows, 2 s long every second, have these cosines with ``QUERY``."""
    memory = CountingMemory()
    memory.ensure_space("test@000000000000", 4)
    number = iter(range(10**9))
    memory.upsert(
        [
            Point(
                str(uuid.UUID(int=next(number))),
                towards(cosine),
                {
                    "sha256": name,
                    "paths": [f"/sounds/{name}.wav", f"/copies/{name}.wav"],
                    "window": index,
                    "start_s": float(index),
                    "end_s": float(index + 2),
                    "duration_s": float(len(cosines) + 1),
                    "title": f"the {name}",
                    **payload,
                },
            )
            for name, cosines in files.items()
            for index, cosine in enumerate(cosines)
        ]
    )
    return memory


def moment(cosines: Sequence[float]) -> Moment:
    (found,) = find_moments(remember({"x": cosines}), QUERY[None], 1, CURVE)
    return found


def names(moments: Iterable[Moment]) -> list[str]:
    return [str(m.payload["sha256"]) for m in moments]


# Ranking


@settings(max_examples=60, deadline=None)
@given(
    files=st.dictionaries(
        st.sampled_from("abcdefghij"), st.lists(st.sampled_from(np.linspace(-1, 1, 41)), min_size=1, max_size=30)
    ),
    k=st.integers(1, 12),
)
def test_files_rank_by_their_best_window(files: dict[str, list[float]], k: int) -> None:
    found = find_moments(remember(files), QUERY[None], k, CURVE)
    assert len(found) == min(k, len(files))
    assert len(set(names(found))) == len(found)
    for one in found:
        assert one.score == pytest.approx(max(files[names([one])[0]]), abs=1e-6)
    brute = sorted((max(cosines) for cosines in files.values()), reverse=True)[:k]
    assert [one.score for one in found] == pytest.approx(brute, abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_one_file_with_ten_thousand_matches_leaves_room_for_the_others(k: int) -> None:
    others = {f"other{i}": [0.1, 0.3 - i / 100] for i in range(12)}
    memory = remember({"long": np.tile([0.9, 0.2], 5000).tolist(), **others})
    assert names(find_moments(memory, QUERY[None], k, CURVE)) == ["long", *others][:k]
    assert memory.asked <= 2 + 2 * k
    assert memory.wanted < 10_000  # never all of them


def test_several_long_files_leave_room_too() -> None:
    files = {f"long{i}": [0.9 - i / 100] * 400 for i in range(4)} | {f"short{i}": [0.2 - i / 100] for i in range(4)}
    assert names(find_moments(remember(files), QUERY[None], 8, CURVE)) == list(files)


def test_fewer_files_than_asked_for_are_all_there_is() -> None:
    assert names(find_moments(remember({"a": [0.1], "b": [0.9] * 100}), QUERY[None], 50, CURVE)) == ["b", "a"]


def test_an_empty_memory_finds_nothing() -> None:
    assert find_moments(remember({}), QUERY[None], 5, CURVE) == []


def test_equal_files_come_in_one_order_whatever_k_is() -> None:
    memory = remember({f"f{i}": [0.5, 0.5] for i in range(20)})
    whole = names(find_moments(memory, QUERY[None], 20, CURVE))
    assert [names(find_moments(memory, QUERY[None], k, CURVE)) for k in (1, 4, 7)] == [whole[:1], whole[:4], whole[:7]]


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k: int) -> None:
    with pytest.raises(QueryError, match=f"k = {k}"):
        find_moments(remember({"a": [0.1]}), QUERY[None], k, CURVE)


def test_a_filter_holds_for_files_and_their_moments() -> None:
    memory = remember({"rain": [0.9] * 3, "wind": [0.8] * 3})
    where = Filter((Clause("paths", "~", "WIND"),))
    (found,) = find_moments(memory, QUERY[None], 5, CURVE, where)
    assert (found.path, found.start_s, found.end_s) == ("/sounds/wind.wav", 0.0, 4.0)
    assert find_moments(memory, QUERY[None], 5, CURVE, Filter((Clause("paths", "~", "snow"),))) == []


@pytest.mark.parametrize("vectors", [QUERY[None], np.stack([QUERY, towards(0.9)])], ids=["words", "sound"])
def test_a_file_that_is_still_being_heard_is_not_found(vectors: np.ndarray) -> None:
    memory = remember({"half": [0.95] * 3000, **{f"whole{i}": [0.5 - i / 100] for i in range(5)}})
    memory.set_payload(Filter((Clause("sha256", "in", ("half",)),)), {"duration_s": None})
    assert names(find_moments(memory, vectors, 5, CURVE)) == [f"whole{i}" for i in range(5)]


def test_what_a_moment_carries() -> None:
    found = moment([0.1, 0.6, 0.1])
    assert found.paths == ("/sounds/x.wav", "/copies/x.wav")
    assert (found.title, found.caption, found.duration_s) == ("the x", None, 4.0)
    assert found.score == pytest.approx(0.6, abs=1e-6)
    assert found.relevance == pytest.approx(1 / (1 + math.exp(-(8 * 0.6 - 3))), abs=1e-5)


# Moments


def slow_stretch(cosines: Sequence[float]) -> tuple[float, float]:
    """The run of windows about the first best one whose odds reach a share of its odds."""
    best = int(np.argmax(np.float32(cosines)))
    odds = [math.exp(CURVE.slope * cosine + CURVE.intercept) for cosine in cosines]
    first = last = best
    while first > 0 and odds[first - 1] >= MOMENT_SHARE * odds[best]:
        first -= 1
    while last + 1 < len(cosines) and odds[last + 1] >= MOMENT_SHARE * odds[best]:
        last += 1
    return float(first), float(last + 2)


# None of these lies exactly at the share of another, where rounding would decide.
LEVELS = [-0.9, -0.5, -0.1, 0.03, 0.11, 0.17, 0.35, 0.5, 0.61, 0.74, 0.97]


@settings(max_examples=100, deadline=None)
@given(
    runs=st.lists(st.tuples(st.sampled_from(LEVELS), st.integers(1, 90)), min_size=1, max_size=8),
    single=st.integers(0, 700),
)
def test_moments_against_brute_force(runs: list[tuple[float, int]], single: int) -> None:
    cosines = [level for level, length in runs for _ in range(length)]
    # One window stands out, or the best would be a tie that ids decide; a little, or the share would cut it off.
    cosines[single % len(cosines)] = max(cosines) + 0.01
    found = moment(cosines)
    assert (found.start_s, found.end_s) == slow_stretch(cosines)


def test_a_moment_is_the_run_about_the_best_window() -> None:
    #         no   yes  yes  best yes  no   yes: but apart
    found = moment([0.3, 0.7, 0.75, 0.9, 0.8, 0.1, 0.85])
    assert (found.start_s, found.end_s) == (1.0, 6.0)


@pytest.mark.parametrize("length", [31, 32, 33, 64, 65, 161, 1000, 5000])
@pytest.mark.parametrize("best", ["first", "middle", "last"])
def test_a_steady_sound_is_one_moment_however_long(length: int, best: str) -> None:
    cosines = [0.1, 0.1, *[0.8] * length, 0.1]
    cosines[{"first": 2, "middle": 2 + length // 2, "last": 1 + length}[best]] = 0.9
    found = moment(cosines)
    assert (found.start_s, found.end_s) == (2.0, 2.0 + length + 1)


def test_better_windows_far_away_do_not_cut_a_moment_short() -> None:
    far, near = [0.89] * 300, [0.7, 0.72, 0.9, 0.71]
    found = moment([*far, 0.0, *near, 0.0, *far])
    assert (found.start_s, found.end_s) == (301.0, 306.0)


@pytest.mark.parametrize("shift", [-0.9, -0.4, -0.1, 0.0])
def test_a_moment_depends_on_differences_not_on_the_sign(shift: float) -> None:
    found = moment([cosine + shift for cosine in [0.1, 0.3, 0.7, 0.9, 0.65, 0.2]])
    assert (found.start_s, found.end_s) == (2.0, 6.0)


# A sound as the query: several vectors


def test_a_sound_ranks_files_by_the_mean_of_their_best_windows() -> None:
    rng = np.random.default_rng(3)
    memory, files = ExactMemory(), {}
    memory.ensure_space("s@1", 8)
    for name in "abcdefghij":
        files[name] = normalise(rng.standard_normal((int(rng.integers(1, 9)), 8)))
        payload = {"sha256": name, "paths": [name], "duration_s": 9.0}
        payloads = [{**payload, "window": n, "start_s": n, "end_s": n + 2} for n in range(9)]
        memory.upsert([Point(str(uuid.uuid4()), v, p) for v, p in zip(files[name], payloads, strict=False)])
    queries = normalise(rng.standard_normal((3, 8)))
    slow = {name: float(np.mean((queries @ vectors.T).max(axis=1))) for name, vectors in files.items()}
    found = find_moments(memory, queries, 10, CURVE)
    assert names(found) == sorted(slow, key=lambda name: -slow[name])
    assert [one.score for one in found] == pytest.approx(sorted(slow.values(), reverse=True), abs=1e-5)
    copy = find_moments(memory, files["g"], 1, CURVE)[0]
    assert (names([copy]), copy.score) == (["g"], pytest.approx(1.0, abs=1e-5))


def mark_silent(memory: Memory, file: str, first: int, last: int = 10**9) -> None:
    windows = (Clause("window", ">=", first), Clause("window", "<=", last))
    memory.set_payload(Filter((Clause("sha256", "in", (file,)), *windows)), {"silent": 1})


@pytest.mark.parametrize("k", [1, 2, 5])
def test_what_is_silent_might_as_well_not_be_there(k: int) -> None:
    files = {"still": [0.99] * 300 + [0.4, 0.3], "mute": [0.98] * 90, "b": [0.8, 0.97, 0.79], "c": [0.1]}
    memory = remember(files)
    mark_silent(memory, "still", 0, 299)
    mark_silent(memory, "mute", 0)
    mark_silent(memory, "b", 1, 1)
    found = find_moments(memory, QUERY[None], k, CURVE, audible=True)
    assert names(found) == ["b", "still", "c"][:k]
    assert (found[0].start_s, found[0].end_s) == (0.0, 2.0)  # it doesn't grow over the silence
    assert found[0].score == pytest.approx(0.8)
    both = find_moments(memory, np.stack([QUERY, towards(0.9)]), k, CURVE, audible=True)
    assert set(names(both)) == set(names(found))
    assert all(moment.start_s >= 0 and not moment.payload.get("silent") for moment in both)
    assert names(find_moments(memory, QUERY[None], k, CURVE)) == ["still", "mute", "b", "c"][:k]


def test_no_filter_is_asked_for_where_nothing_is_silent() -> None:
    memory = remember({"a": [0.9, 0.2], "b": [0.5]})
    find_moments(memory, QUERY[None], 2, CURVE, audible=True)
    asked = memory.asked
    find_moments(memory, QUERY[None], 2, CURVE)
    assert memory.asked == 2 * asked


def test_moments_of_one_file_do_not_reach_into_another() -> None:
    memory = remember({"a": [0.9] * 5, "b": [0.8] * 40})
    assert [(m.start_s, m.end_s) for m in find_moments(memory, QUERY[None], 2, CURVE)] == [(0.0, 6.0), (0.0, 41.0)]


# Curves


@pytest.mark.parametrize(
    ("words", "kind"),
    [("rain", "text"), ("knarrende Tür", "text"), ("雨の音", "text-cjk"), ("さらさら", "text-cjk"), (None, "audio")],
)
def test_the_curve_is_chosen_by_script(words: str | None, kind: str) -> None:
    curves = {name: Calibration(1.0 + n, 0.0, 0.5) for n, name in enumerate(("text", "text-cjk", "audio"))}
    assert calibration_for(words, curves) is curves[kind]


def test_a_bundle_with_one_curve_for_words_uses_it_for_every_script() -> None:
    assert calibration_for("雨", {"text": CURVE}) is CURVE
    with pytest.raises(BundleError, match="audio"):
        calibration_for(None, {"text": CURVE})


# Filters


GOOD = [
    ("duration<5", Clause("duration_s", "<", 5.0)),
    ("duration <= 5s", Clause("duration_s", "<=", 5.0)),
    ("duration_s>0.5", Clause("duration_s", ">", 0.5)),
    ("  duration  >=  1e2 ", Clause("duration_s", ">=", 100.0)),
    ("rate=48000", Clause("sample_rate_hz", "=", 48000.0)),
    ("rate=44100Hz", Clause("sample_rate_hz", "=", 44100.0)),
    ("sample_rate!=8000", Clause("sample_rate_hz", "!=", 8000.0)),
    ("sample_rate_hz>1", Clause("sample_rate_hz", ">", 1.0)),
    ("channels=2", Clause("channels", "=", 2.0)),
    ("path~ambience", Clause("paths", "~", "ambience")),
    ("paths~a b", Clause("paths", "~", "a b")),
    ("path!=/a/b.wav", Clause("paths", "!=", "/a/b.wav")),
    ("path~x=y<z", Clause("paths", "~", "x=y<z")),
    ("title=Große Trommel", Clause("title", "=", "Große Trommel")),
    ("artist~é", Clause("artist", "~", "é")),
    ("description~two\nlines", Clause("description", "~", "two\nlines")),
    ("category=RAIN", Clause("category", "=", "RAIN")),
    ("format!=mp3", Clause("format", "!=", "mp3")),
    ("caption~dog", Clause("caption", "~", "dog")),
    ("duration>-1", Clause("duration_s", ">", -1.0)),
]


@pytest.mark.parametrize(("text", "wanted"), GOOD, ids=[text for text, _ in GOOD])
def test_filters_that_are_understood(text: str, wanted: Clause) -> None:
    assert parse_filter([text]) == Filter((wanted,))


BAD = [
    ("", "FIELD OP VALUE"),
    ("duration", "FIELD OP VALUE"),
    ("duration<", "FIELD OP VALUE"),
    ("path~   ", "FIELD OP VALUE"),
    ("<5", "FIELD OP VALUE"),
    ("the length<5", "FIELD OP VALUE"),
    ("length<5", "one of"),
    ("sha256=abc", "one of"),
    ("window<3", "one of"),
    ("duration<five", "a number"),
    ("duration<1:30", "a number"),
    ("duration<=>5", "a number"),
    ("duration~5", "a number"),
    ("channels=two", "a number"),
    ("path<5", "text, compared"),
    ("title>=a", "text, compared"),
]


@pytest.mark.parametrize(("text", "word"), BAD, ids=[text or "empty" for text, _ in BAD])
def test_filters_that_are_not(text: str, word: str) -> None:
    with pytest.raises(QueryError, match=word) as caught:
        parse_filter(["channels=1", text])
    assert text.split("<")[0].split("~")[0].split("=")[0].strip() in caught.value.found


def test_an_unknown_field_is_answered_with_all_known_ones() -> None:
    with pytest.raises(QueryError) as caught:
        parse_filter(["lenght<5"])
    offered = caught.value.expected.removeprefix("one of ").split(", ")
    assert {"duration", "path", "rate", "title", "channels"} <= set(offered)
    for field in offered:
        text = field in ("path", "paths") or FIELDS.get(field) is str
        assert parse_filter([f"{field}={'x' if text else 1}"]).clauses


def test_no_filters_are_no_filter() -> None:
    assert not parse_filter([])


def test_filters_all_hold_together() -> None:
    memory = remember({"a": [0.9], "b": [0.8, 0.8], "c": [0.7, 0.7, 0.7]}, channels=2)
    where = parse_filter(["duration>=3s", "channels=2", "path~SOUNDS", "title!=the c"])
    assert names(find_moments(memory, QUERY[None], 5, CURVE, where)) == ["b"]
