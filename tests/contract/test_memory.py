"""One suite for every memory: each must answer as the numpy oracle does.

The served memory runs it four times: on the client's local mode in process, through REST and through gRPC on the stub
server (real ports, real bytes, local mode behind them), and on a real server where ``EARSHOT_TEST_QDRANT_URL`` names
one (its key in ``EARSHOT_QDRANT_API_KEY``), in collections of its own that are removed again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from engine.errors import MemoryStoreError, QueryError, SpaceMismatchError
from engine.memory.base import Memory
from engine.memory.captions import GENERATED, CaptionMemory, Said, of
from engine.memory.edge import EdgeMemory
from engine.memory.exact import ExactMemory
from engine.memory.server import ServerMemory
from engine.memory.server_link import connected
from engine.memory.server_options import ServerAddress, ServerOptions
from engine.silence import AUDIBLE
from engine.types import Clause, Filter, FloatArray, Hit, Point
from tests.engine.memory.asked import AskedMemory
from tests.engine.memory.stub_qdrant import Stub

REAL_URL = os.environ.get("EARSHOT_TEST_QDRANT_URL")


class Local:
    """The client's local mode, one for each folder.

    It differs from a server, and from what `ServerMemory` may rely on, in three ways that are met here: it is not made
    for threads (one call at a time), it warns that indexes and search parameters mean nothing to it (they are left
    out), and it keeps a null as a value where a server removes the key (reading leaves nulls out in any case).
    """

    clients: ClassVar[dict[Path, QdrantClient]] = {}

    def __init__(self, folder: Path) -> None:
        self._client = self.clients.setdefault(folder, QdrantClient(":memory:"))
        self._lock = threading.RLock()

    def create_payload_index(self, *_: Any, **__: Any) -> None:
        pass

    def query_batch_points(self, name: str, requests: list[models.QueryRequest]) -> list[models.QueryResponse]:
        plain = [request.model_copy(update={"params": None}) for request in requests]
        with self._lock:
            return self._client.query_batch_points(name, plain)

    def __getattr__(self, name: str) -> Any:
        def call(*values: Any, **named: Any) -> Any:
            with self._lock:
                return getattr(self._client, name)(*values, **named)

        return call


class Served:
    """Memories on one server, each behind an alias named after its folder; a stub is started when first needed."""

    stub: Stub | None = None
    made: ClassVar[set[str]] = set()

    @classmethod
    def alias(cls, folder: Path) -> str:
        name = f"earshot-test-{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
        cls.made.add(name)
        return name

    @classmethod
    def on_stub(cls, folder: Path, by_grpc: bool) -> ServerMemory:
        cls.stub = cls.stub or Stub()
        options = ServerOptions(grpc_port=cls.stub.grpc_port if by_grpc else None)
        return ServerMemory(cls.stub.url, options, cls.alias(folder))

    @classmethod
    def really(cls, folder: Path) -> ServerMemory:
        assert REAL_URL
        return ServerMemory(REAL_URL, ServerOptions.from_environment(), cls.alias(folder))

    @classmethod
    def clean_up(cls) -> None:
        if cls.stub:
            cls.stub.stop()
            cls.stub = None
        if REAL_URL:
            client = connected(ServerAddress.parse(REAL_URL), ServerOptions.from_environment())
            for one in client.get_aliases().aliases:
                if one.alias_name in cls.made:
                    client.delete_collection(one.collection_name)
            client.close()


#: Every memory, made in an empty folder. A new implementation is one line here.
MEMORIES: dict[str, Callable[[Path], Memory]] = {
    "exact": lambda folder: ExactMemory(),
    "edge": EdgeMemory,
    "edge, asked over a socket": AskedMemory,
    "server, local mode": lambda folder: ServerMemory("http://localhost", client=Local(folder)),  # type: ignore[arg-type]
    "server, REST to a stub": lambda folder: Served.on_stub(folder, by_grpc=False),
    "server, gRPC to a stub": lambda folder: Served.on_stub(folder, by_grpc=True),
    **({"server, a real one": Served.really} if REAL_URL else {}),
}
PERSISTENT = [name for name in MEMORIES if name != "exact"]
SPACE, DIM = "tiny/model@0123456789ab", 8

NFC, NFD = unicodedata.normalize("NFC", "Café Zürich.wav"), unicodedata.normalize("NFD", "Café Zürich.wav")
PAYLOADS: list[dict[str, Any]] = [
    {"sha256": "AA", "paths": ["/Rain/Heavy.wav", "/copies/one.wav"], "title": "Straße", "duration_s": 5.0},
    {"sha256": "aa", "paths": ["/rain/light.flac"], "title": "STRASSE", "duration_s": 5, "channels": 2},
    {"sha256": "bb", "paths": [f"/music/{NFD}"], "category": "", "duration_s": 0.1, "speeds": [1, 9.5]},
    {"sha256": "cc", "paths": [f"/music/{NFC}"], "title": "5", "note": "ΣΊΣΥΦΟΣ", "duration_s": 1e6},
    {"sha256": "dd", "paths": [], "title": None, "loud": True, "note": ["x", "İstanbul"]},
    {},
]
CLAUSES = [
    *(Clause("duration_s", op, value) for op in ("<", "<=", ">", ">=", "=", "!=") for value in (5.0, 5, 0.1)),
    *(Clause("speeds", op, 2) for op in ("<", ">", "=")),
    *(Clause("title", op, text) for op in ("=", "!=", "~") for text in ("strasse", "STRAßE", "5", "", "se")),
    *(Clause("paths", op, text) for op in ("=", "!=", "~") for text in ("/RAIN/", "/rain/HEAVY.wav", NFC, NFD, "CAFÉ")),
    *(Clause("note", op, text) for op in ("=", "!=", "~") for text in ("σίσυφος", "i̇stanbul", "İ", "x")),
    *(Clause("sha256", op, texts) for op in ("in", "not in") for texts in ([], ["aa"], ("AA", "bb", "zz"))),
    *(Clause("paths", op, ["/rain/light.flac"]) for op in ("in", "not in")),
    *(Clause("sha256", op, "aa") for op in ("=", "!=", "~")),
    *(Clause(field, "!=", value) for field, value in (("absent", "x"), ("absent", 1.0), ("title", 5.0), ("loud", 1.0))),
    *(
        Clause(field, "=", value)
        for field, value in (("duration_s", "5"), ("title", 5.0), ("loud", 1.0), ("absent", 0))
    ),
    Clause("duration_s", "<", float("inf")),
]


def identifier(number: int) -> str:
    return str(uuid.UUID(int=number))


def points(count: int, payloads: Sequence[dict[str, Any]] = PAYLOADS, seed: int = 0) -> list[Point]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Point(identifier(i), v, payloads[i % len(payloads)]) for i, v in enumerate(vectors)]


def axis(number: int) -> FloatArray:
    return np.eye(DIM, dtype=np.float32)[number]


def assert_same(memory: Memory, oracle: Memory, where: Filter | None = None, k: int = 5) -> None:
    """Both hold the same points and find the same, but for the last digits of a score."""
    assert memory.count(where) == oracle.count(where)
    found, expected = list(memory.scroll(where, with_vectors=True)), list(oracle.scroll(where, with_vectors=True))
    assert [(r.id, r.payload) for r in found] == [(r.id, r.payload) for r in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.vector, theirs.vector, atol=1e-6)
    for query in (axis(0), points(1, seed=9)[0].vector):
        assert_hits(memory.search(query, k, where), oracle.search(query, 10_000, where), k)


def assert_hits(found: list[Hit], ranking: list[Hit], k: int) -> None:
    """``found`` is the head of the oracle's whole ``ranking``; near ties may stand in either order."""
    assert [h.score for h in found] == pytest.approx([h.score for h in ranking[:k]], abs=1e-6)
    known = {hit.id: hit for hit in ranking}
    for hit in found:
        assert (hit.score, hit.payload) == (pytest.approx(known[hit.id].score, abs=1e-6), known[hit.id].payload)
    assert found == sorted(found, key=lambda hit: (-hit.score, hit.id))


@pytest.fixture(scope="module", autouse=True)
def on_servers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("engine.memory.server._POLL_S", 0.001)  # nothing is built here
        yield
    Served.clean_up()


@pytest.fixture(scope="module", params=MEMORIES)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Memory]:
    with MEMORIES[request.param](tmp_path_factory.mktemp("memory")) as memory:
        memory.ensure_space(SPACE, DIM)
        yield memory


@pytest.fixture
def memory(shared: Memory) -> Memory:
    """An empty memory; one for the whole module, because making a store takes a while on a busy disk."""
    shared.delete(Filter((Clause("absent", "!=", 0),)))
    return shared


@pytest.fixture
def oracle() -> Memory:
    oracle = ExactMemory()
    oracle.ensure_space(SPACE, DIM)
    return oracle


def both(memory: Memory, oracle: Memory, act: Callable[[Memory], None]) -> None:
    act(memory)
    act(oracle)


def test_filters_mean_the_same_everywhere(memory: Memory, oracle: Memory) -> None:
    both(memory, oracle, lambda m: m.upsert(points(18)))
    for clause in CLAUSES:
        assert_same(memory, oracle, Filter((clause,)))
    for one, two in zip(CLAUSES, CLAUSES[7:], strict=False):
        assert_same(memory, oracle, Filter((one, two)))


@pytest.mark.parametrize(
    ("clause", "matching"),
    [
        (Clause("title", "=", "strasse"), [0, 1]),
        (Clause("title", "!=", "strasse"), [2, 3, 4, 5]),
        (Clause("paths", "~", NFD.upper()), [2, 3]),
        (Clause("paths", "=", "/COPIES/one.wav"), [0]),
        (Clause("duration_s", "<=", 5), [0, 1, 2]),
        (Clause("speeds", ">", 2), [2]),
        (Clause("note", "~", "σίσυφος"), [3]),
        (Clause("sha256", "in", ["aa", "dd"]), [1, 4]),
        (Clause("sha256", "=", "aa"), [1]),
        (Clause("sha256", "not in", ["aa"]), [0, 2, 3, 4, 5]),
        (Clause("title", "~", ""), [0, 1, 3]),
    ],
)
def test_filters_mean_what_they_say(memory: Memory, clause: Clause, matching: list[int]) -> None:
    memory.upsert(points(6))
    assert [record.id for record in memory.scroll(Filter((clause,)))] == [identifier(i) for i in matching]


def test_payloads_come_back_as_given(memory: Memory) -> None:
    memory.upsert(points(6))
    expected = [{key: value for key, value in payload.items() if value is not None} for payload in PAYLOADS]
    assert [record.payload for record in memory.scroll()] == expected
    assert all(record.vector is None for record in memory.scroll())


def test_a_known_id_is_replaced_whole(memory: Memory, oracle: Memory) -> None:
    both(memory, oracle, lambda m: m.upsert(points(6)))
    both(memory, oracle, lambda m: m.upsert([Point(identifier(0), axis(1), {"window": 3})]))
    both(memory, oracle, lambda m: m.upsert([Point(identifier(9), axis(1), {}), Point(identifier(9), axis(2), {})]))
    assert_same(memory, oracle)
    assert_same(memory, oracle, Filter((Clause("title", "=", "strasse"),)))
    assert memory.count() == 7


def test_a_rename_replaces_the_paths(memory: Memory, oracle: Memory) -> None:
    both(memory, oracle, lambda m: m.upsert(points(12)))
    where = Filter((Clause("sha256", "in", ["AA"]),))
    both(memory, oracle, lambda m: m.set_payload(where, {"paths": ["/Neu/Größe.wav"], "title": None, "window": 1}))
    assert_same(memory, oracle)
    for clause in (Clause("paths", "~", "heavy"), Clause("paths", "~", "GRÖSSE"), Clause("title", "=", "strasse")):
        assert_same(memory, oracle, Filter((clause,)))
    assert memory.count(Filter((Clause("paths", "~", "grösse"),))) == 2
    both(memory, oracle, lambda m: m.set_payload(Filter(), {"title": 7}))
    assert_same(memory, oracle, Filter((Clause("title", "~", ""),)))


def test_delete_removes_what_matches_and_refuses_everything(memory: Memory, oracle: Memory) -> None:
    both(memory, oracle, lambda m: m.upsert(points(12)))
    both(memory, oracle, lambda m: m.delete(Filter((Clause("paths", "~", "MUSIC"), Clause("title", "!=", "5")))))
    assert_same(memory, oracle)
    assert memory.count() == 10
    with pytest.raises(ValueError, match="everything"):
        memory.delete(Filter())
    assert memory.count() == 10


def test_search_many_is_search_many_times(memory: Memory) -> None:
    memory.upsert(points(40))
    wheres = [Filter((clause,)) for clause in CLAUSES[::5]] + [Filter()]
    many = memory.search_many(axis(3), 4, wheres)
    for hits, where in zip(many, wheres, strict=True):
        assert_hits(hits, memory.search(axis(3), 40, where), 4)
    assert memory.search_many(axis(3), 4, []) == []


def test_hits_come_with_their_vectors_as_they_are_kept(memory: Memory) -> None:
    """A document beside the vector, whatever the filter, at a tie too: those of ``search``, and of ``scroll``."""
    memory.upsert([*points(40), Point(identifier(50), axis(3), {"title": "a dog"})])
    kept = {record.id: record.vector for record in memory.scroll(with_vectors=True)}
    for where in (None, Filter((Clause("title", "~", "dog"),))):
        found = memory.search_vectors(axis(3), 7, where)
        assert_hits([hit for hit, _ in found], memory.search(axis(3), 41, where), 7)
        for hit, vector in found:
            assert vector.dtype == np.float32
            np.testing.assert_array_equal(vector, kept[hit.id])
    assert memory.search_vectors(axis(3), 0) == []
    with pytest.raises(MemoryStoreError):
        memory.search_vectors(axis(3)[:-1], 3)
    with pytest.raises(ValueError, match="k"):
        memory.search_vectors(axis(3), -1)


def test_equal_scores_stand_by_id_wherever_they_are_cut(memory: Memory) -> None:
    order = np.random.default_rng(1).permutation(300)
    memory.upsert([Point(identifier(int(i)), axis(int(i) % 2), {}) for i in order])
    for k in (1, 7, 149, 151):
        evens_then_odds = [*range(0, 300, 2), *range(1, 300, 2)]
        assert [hit.id for hit in memory.search(axis(0), k)] == [identifier(i) for i in evens_then_odds[:k]]


def test_k_may_be_zero_or_more_than_there_is(memory: Memory, oracle: Memory) -> None:
    assert memory.search(axis(0), 3) == []
    assert (list(memory.scroll()), memory.count()) == ([], 0)
    memory.optimise()
    both(memory, oracle, lambda m: m.upsert([]))
    both(memory, oracle, lambda m: m.upsert(points(7)))
    assert_same(memory, oracle, k=100)
    assert memory.search(axis(0), 0) == []
    with pytest.raises(ValueError, match="-1"):
        memory.search(axis(0), -1)
    assert len(memory.search(axis(0), 1_000_000)) == 7
    for k in (1_000_001, 2**63 - 1, 2**70):
        with pytest.raises(QueryError, match="at most 1,000,000"):
            memory.search_many(axis(0), k, [Filter()])


def test_scroll_pages_through_all_by_id(memory: Memory) -> None:
    memory.upsert(points(700)[::-1])
    records = memory.scroll()
    first = next(records)
    memory.delete(Filter((Clause("sha256", "=", "bb"),)))
    assert first.id == identifier(0)
    assert [record.id for record in memory.scroll()] == [identifier(i) for i in range(700) if i % 6 != 2]


def test_optimise_keeps_the_answers_and_later_points_are_found_at_once(memory: Memory, oracle: Memory) -> None:
    both(memory, oracle, lambda m: m.upsert(points(600)))
    both(memory, oracle, lambda m: m.optimise())
    assert_same(memory, oracle)
    both(memory, oracle, lambda m: m.upsert([Point(identifier(5000), axis(0), {"title": "late"})]))
    assert memory.search(axis(0), 1)[0].id == identifier(5000)
    both(memory, oracle, lambda m: m.delete(Filter((Clause("sha256", "=", "cc"),))))
    assert_same(memory, oracle)


@pytest.mark.parametrize(
    "bad",
    [
        Point(identifier(1), np.zeros(DIM + 1, np.float32), {}),
        Point(identifier(1), np.zeros((1, DIM), np.float32), {}),
        Point(identifier(1), np.zeros(DIM), {}),
        Point(identifier(1), np.full(DIM, np.nan, np.float32), {}),
        Point(identifier(1), np.full(DIM, np.inf, np.float32), {}),
        Point("not-a-uuid", axis(0), {}),
        Point(identifier(1), axis(0), {"duration_s": float("nan")}),
        Point(identifier(1), axis(0), {"duration_s": 2**70}),
        Point(identifier(1), axis(0), {"paths": ["/bad/\udcff.wav"]}),
        Point(identifier(1), axis(0), {"tags": {"a": 1}}),
        Point(identifier(1), axis(0), {"a.b": 1}),
    ],
)
def test_what_cannot_be_stored_is_refused_with_all_that_came_with_it(memory: Memory, bad: Point) -> None:
    with pytest.raises(MemoryStoreError, match="expected"):
        memory.upsert([*points(3), bad])
    assert memory.count() == 0
    if bad.vector.shape != (DIM,) or not np.isfinite(bad.vector).all():
        with pytest.raises(MemoryStoreError, match="the query"):
            memory.search(bad.vector, 1)


@pytest.mark.parametrize(
    "clause",
    [
        Clause("duration_s", "<", "5"),
        Clause("duration_s", "=", float("nan")),
        Clause("title", "~", 5.0),
        Clause("title", "=", ["a"]),
        Clause("sha256", "in", "aa"),
        Clause("sha256", "in", [1]),  # type: ignore[list-item]
        Clause("title", "like", "a"),  # type: ignore[arg-type]
        Clause("a.b", "=", "a"),
    ],
)
def test_a_filter_without_meaning_is_refused(memory: Memory, clause: Clause) -> None:
    where = Filter((clause,))
    for call in (memory.count, memory.scroll, memory.delete, lambda w: memory.search(axis(0), 1, w)):
        with pytest.raises(QueryError, match="expected"):
            call(where)


def test_another_space_is_refused_with_both_names(memory: Memory) -> None:
    memory.ensure_space(SPACE, DIM)
    for space_id, dim in (("other@ba9876543210", DIM), (SPACE, DIM + 1)):
        with pytest.raises(SpaceMismatchError) as caught:
            memory.ensure_space(space_id, dim)
        for name in (SPACE, space_id, str(DIM), str(dim)):
            assert name in str(caught.value)
    memory.upsert(points(1))


@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_without_a_space_or_closed_says_so(name: str, tmp_path: Path) -> None:
    closed, new = MEMORIES[name](tmp_path / "closed"), MEMORIES[name](tmp_path / "new")
    closed.ensure_space(SPACE, DIM)
    closed.close()
    closed.close()
    for unusable in (closed, new):
        calls: list[Callable[[], object]] = [unusable.count, unusable.scroll, unusable.flush, unusable.optimise]
        for call in [*calls, lambda m=unusable: m.upsert([]), lambda m=unusable: m.search(axis(0), 1)]:
            with pytest.raises(MemoryStoreError, match="ensure_space"):
                call()
    with pytest.raises(MemoryStoreError, match="closed"):
        closed.ensure_space(SPACE, DIM)


@pytest.mark.parametrize("name", PERSISTENT)
def test_reopening_finds_everything(name: str, tmp_path: Path, oracle: Memory) -> None:
    oracle.upsert(points(50))
    with MEMORIES[name](tmp_path) as memory:
        memory.ensure_space(SPACE, DIM)
        memory.upsert(points(50))
    with MEMORIES[name](tmp_path) as memory:
        with pytest.raises(SpaceMismatchError, match="other"):
            memory.ensure_space("other@ba9876543210", DIM)
        memory.ensure_space(SPACE, DIM)
        assert_same(memory, oracle)
        assert_same(memory, oracle, Filter((Clause("paths", "~", "RAIN"),)))


TEXTS = st.sampled_from(["Straße", "STRASSE", "rain", "Rain heavy", "", NFC, NFD])
NUMBERS = st.sampled_from([0.0, 1, 5, 5.0, -2.5])
VALUES = st.one_of(TEXTS, NUMBERS, st.lists(TEXTS, max_size=2), st.none())
PAYLOAD = st.dictionaries(st.sampled_from(["title", "paths", "sha256", "duration_s", "note"]), VALUES, max_size=4)
CLAUSE = st.one_of(
    st.builds(Clause, st.sampled_from(["title", "paths", "sha256", "note"]), st.sampled_from(["=", "!=", "~"]), TEXTS),
    st.builds(
        Clause, st.sampled_from(["duration_s", "note"]), st.sampled_from(["<", "<=", ">", ">=", "=", "!="]), NUMBERS
    ),
    st.builds(
        Clause, st.sampled_from(["sha256", "title"]), st.sampled_from(["in", "not in"]), st.lists(TEXTS, max_size=2)
    ),
)
WHERE = st.builds(lambda clauses: Filter(tuple(clauses)), st.lists(CLAUSE, min_size=1, max_size=2))
POINT = st.builds(
    lambda i, v, p: Point(identifier(i), points(6)[v].vector, p), st.integers(0, 9), st.integers(0, 5), PAYLOAD
)
STEP = st.one_of(
    st.tuples(st.just("upsert"), st.lists(POINT, max_size=5)),
    st.tuples(st.just("delete"), WHERE),
    st.tuples(st.just("set_payload"), WHERE, PAYLOAD),
    st.tuples(st.just("optimise")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(steps=st.lists(STEP, min_size=1, max_size=8), where=WHERE)
def test_any_history_ends_the_same(memory: Memory, steps: list[tuple[Any, ...]], where: Filter) -> None:
    oracle = ExactMemory()
    oracle.ensure_space(SPACE, DIM)
    memory.delete(Filter((Clause("absent", "!=", 0),)))
    for name, *arguments in steps:
        getattr(memory, name)(*arguments)
        getattr(oracle, name)(*arguments)
    assert_same(memory, oracle)
    assert_same(memory, oracle, where)


TEXTS: list[dict[str, Any]] = [
    {"window": 0, "title": "Thunder", "description": "a storm, far away", "words": ["rolling", "thunder"]},
    {"window": 0, "description": "thunder and rain", "category": "weather", "captions": ["rain falls", "a dog barks"]},
    {"window": 0, "captions": ["Un café bruyant"], "words": ["CAFE", "Straße"]},
    {"window": 0, "title": "大雨の音", "description": "雷"},
    {"window": 1, "title": "Thunder", "captions": ["thunder thunder thunder"]},
    {"window": 0, "title": "", "words": [], "note": "thunder"},
    {"text": "a dog barks in the rain", "language": "eng"},
    {"window": 0, "title": "door_slam-02", "description": "x" * 5000},
]
ASKED = [
    "thunder",
    "THUNDER rain",
    "cafe",
    "café",
    "dog barks",
    "strasse",
    "大雨",
    "雨",
    "音",
    "大雨の",
    "slam 02",
    "a",
    "nothing",
]


def assert_words(memory: Memory, oracle: Memory, where: Filter | None = None, asked: Sequence[str] = ASKED) -> None:
    """Both find the same points by their words, with the same scores."""
    for words in asked:
        found, expected = memory.search_words(words, 50, where), oracle.search_words(words, 50, where)
        assert {hit.id: hit.payload for hit in found} == {hit.id: hit.payload for hit in expected}, words
        scores = {hit.id: hit.score for hit in expected}
        assert {hit.id: hit.score for hit in found} == pytest.approx(scores, rel=1e-5)
        assert found == sorted(found, key=lambda hit: (-hit.score, hit.id))


def test_words_find_the_same_with_the_same_scores_everywhere(memory: Memory, oracle: Memory) -> None:
    both(memory, oracle, lambda m: m.upsert(points(24, TEXTS)))
    assert_words(memory, oracle)
    assert_words(memory, oracle, Filter((Clause("category", "=", "WEATHER"),)))
    assert_words(memory, oracle, Filter((Clause("window", "!=", 0),)))
    assert memory.search_words("thunder", 2) == memory.search_words("thunder", 50)[:2]
    assert memory.search_words("thunder", 0) == memory.search_words("", 5) == memory.search_words("?!", 5) == []
    with pytest.raises(ValueError, match="-1"):
        memory.search_words("thunder", -1)
    with pytest.raises(QueryError):
        memory.search_words("thunder", 5, Filter((Clause("title", "<", "x"),)))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("thunder", [0, 1]),  # not its later window, nor a note that is no document
        ("Dog", [6, 1]),
        ("café", [2]),
        ("STRASSE", [2]),
        ("雨", [3]),
        ("大雨", [3]),
        ("雷雨", []),
        ("slam", [7]),
    ],
)
def test_words_find_what_they_say(memory: Memory, words: str, found: list[int]) -> None:
    memory.upsert(points(8, TEXTS))
    assert [hit.id for hit in memory.search_words(words, 10)] == [identifier(i) for i in found]


def test_documents_follow_what_is_written_and_removed(memory: Memory, oracle: Memory) -> None:
    both(memory, oracle, lambda m: m.upsert(points(16, TEXTS)))
    dogs = Filter((Clause("captions", "~", "dog"),))
    both(memory, oracle, lambda m: m.set_payload(dogs, {"captions": ["a cat purrs"], "category": "animal"}))
    assert_words(memory, oracle, asked=[*ASKED, "cat", "animal"])
    assert not {identifier(1), identifier(9)} & {hit.id for hit in memory.search_words("dog", 50)}
    both(memory, oracle, lambda m: m.set_payload(Filter((Clause("category", "=", "animal"),)), {"category": None}))
    both(memory, oracle, lambda m: m.set_payload(Filter((Clause("note", "=", "thunder"),)), {"title": "Thunder"}))
    both(memory, oracle, lambda m: m.upsert([Point(identifier(0), axis(1), {"window": 0, "title": "silence"})]))
    both(memory, oracle, lambda m: m.upsert([Point(identifier(8), axis(1), {"window": 0})]))
    assert_words(memory, oracle, asked=[*ASKED, "animal", "silence"])
    both(memory, oracle, lambda m: m.set_payload(Filter(), {"title": None, "captions": None}))
    assert_words(memory, oracle)
    both(memory, oracle, lambda m: m.delete(Filter((Clause("description", "~", "storm"),))))
    assert_words(memory, oracle)
    memory.optimise()
    assert_words(memory, oracle)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.lists(st.sampled_from(["rain", "dog", "sea", "雨音", "é", "海の", "dog"]), max_size=6),
        min_size=1,
        max_size=12,
    )
)
def test_bm25_is_that_of_the_oracle_whatever_is_said(memory: Memory, said: list[list[str]]) -> None:
    memory.delete(Filter((Clause("absent", "!=", 0),)))
    with ExactMemory() as oracle:
        oracle.ensure_space(SPACE, DIM)
        both(memory, oracle, lambda m: m.upsert(points(len(said), [{"text": " ".join(words)} for words in said])))
        assert_words(memory, oracle, asked=["rain", "dog sea", "雨", "音海", "e", "rain dog sea 雨音"])


def test_words_among_equal_scores_stand_by_id(memory: Memory) -> None:
    order = np.random.default_rng(1).permutation(100)
    memory.upsert([Point(identifier(int(i)), axis(0), {"text": "rain"}) for i in order])
    assert [hit.id for hit in memory.search_words("rain", 33)] == [identifier(i) for i in range(33)]


def test_captions_are_kept_the_same_everywhere(memory: Memory) -> None:
    """Generated ones are found by their words, and are none of those that are projected upon."""
    captions = CaptionMemory(memory, SPACE)
    human = [Said("a dog barks", "eng", "mine"), Said("la mer", "fra", "mine"), Said("rain", "eng", "other")]
    made = [Said("a dog barks", "eng", GENERATED), Said("a whistle", "eng", GENERATED)]
    vectors = np.stack([axis(n) for n in range(5)])
    for _ in range(2):
        captions.remember([*human, *made], vectors)
    memory.flush()
    assert captions.count() == 5
    assert captions.news([*made, Said("a dog barks", "deu", "mine")]) == [Said("a dog barks", "deu", "mine")]
    found = captions.nearest(axis(3) + np.float32(0.5) * axis(1), 5)
    assert (found[0].text, found[0].language, found[0].source) == ("la mer", "fra", "mine")
    assert {one.text for one in found} == {one.text for one in human}
    np.testing.assert_allclose(found[0].vector, axis(1), atol=1e-6)
    kept, texts = captions.texts(10)
    assert sorted(texts) == ["a dog barks", "la mer", "rain"]
    for vector, text in zip(kept, texts, strict=True):
        np.testing.assert_allclose(vector, vectors[[one.text for one in human].index(text)], atol=1e-6)
    assert [hit.payload["source"] for hit in memory.search_words("whistle", 5)] == [GENERATED]
    assert captions.forget(of("MINE", "eng")) == 1
    assert sorted(one.text for one in captions.all()) == ["a dog barks", "a whistle", "la mer", "rain"]
    assert captions.forget(of(GENERATED)) == 2
    assert captions.forget(of()) == 2
    assert (captions.count(), captions.nearest(axis(0), 3), captions.texts(3)[1]) == (0, [], [])


def test_what_is_silent_is_left_out_on_every_memory(memory: Memory, oracle: Memory) -> None:
    heard = [{"silent": 1}, {}, {"silent": 1}, {"window": 3}]
    both(memory, oracle, lambda m: m.upsert(points(16, heard)))
    where = Filter((AUDIBLE,))
    assert_same(memory, oracle, where)
    assert [record.id for record in memory.scroll(where)] == [identifier(i) for i in range(1, 16, 2)]
