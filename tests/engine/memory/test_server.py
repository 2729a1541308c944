"""What only a served memory must stand: a server that is away, busy, old, foreign, full, or guarded."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from qdrant_client import models

from engine.errors import EarshotError, LibraryError, MemoryStoreError, SpaceMismatchError
from engine.memory import server
from engine.memory.server import ServerMemory
from engine.memory.server_errors import passes
from engine.memory.server_options import ServerAddress, ServerOptions, is_url
from engine.types import Clause, Filter, Point, point_id
from tests.engine.memory.stub_qdrant import Fault, Stub, fails, stub

SPACE, DIM = "tiny/model@0123456789ab", 8
ROOT = Path(__file__).parents[3]
KEY = "a-key-nobody-may-see"


def batch(count: int, number: int = 0) -> list[Point]:
    vectors = np.random.default_rng(number).standard_normal((count, DIM)).astype(np.float32)
    payload = {"sha256": str(number), "paths": [f"/{number}.wav"]}
    return [Point(point_id(str(number), SPACE, i), vector, payload) for i, vector in enumerate(vectors)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short here, and drawn, so that no test waits for the longest."""
    monkeypatch.setattr("engine.memory.server_link._pause", lambda state: 0.01)
    monkeypatch.setattr(server, "_POLL_S", 0.001)


@pytest.fixture
def qdrant() -> Iterator[Stub]:
    with stub() as running:
        yield running


Opened = Callable[..., ServerMemory]


@pytest.fixture
def opened(qdrant: Stub) -> Iterator[Opened]:
    """Makes memories on the stub, with options and a list of all that they ``said``."""
    made: list[ServerMemory] = []

    def make(said: list[str] | None = None, url: str = "", **options: Any) -> ServerMemory:
        memory = ServerMemory(url or qdrant.url, ServerOptions(**options))
        memory.say = (said if said is not None else []).append
        made.append(memory)
        memory.ensure_space(SPACE, DIM)
        return memory

    yield make
    for memory in made:
        memory.close()


def away(times: int, fault: Fault = None, where: str = "") -> Callable[[str, str], Fault | bool]:
    """Fails so often where the path or the call has ``where`` in it, then goes on as if nothing had been."""
    left = times

    def ask(method: str, path: str) -> Fault | bool:
        nonlocal left
        if where not in path or left <= 0:
            return False
        left -= 1
        return fault

    return ask


# Where it is, and how it is used


@pytest.mark.parametrize(
    ("url", "spelled"),
    [
        ("http://localhost", "http://localhost:6333"),
        ("HTTP://Studio.Local:7000/", "http://studio.local:7000"),
        ("https://example.org:443/sounds/", "https://example.org:443/sounds"),
        ("http://[::1]:6333", "http://[::1]:6333"),
    ],
)
def test_one_server_has_one_spelling(url: str, spelled: str) -> None:
    assert ServerAddress.parse(url).url == spelled
    assert is_url(url)


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://host:port", "http://host:6333?a=b", "host:6333"])
def test_what_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(LibraryError, match=r"HOST:PORT"):
        ServerAddress.parse(url)


def test_a_secret_in_the_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(LibraryError, match="EARSHOT_QDRANT_API_KEY") as caught:
        ServerAddress.parse(f"https://me:{KEY}@host:6333")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(("host", "local"), [("localhost", True), ("127.0.0.9", True), ("[::1]", True), ("nas", False)])
def test_what_is_this_machine(host: str, local: bool) -> None:
    assert ServerAddress.parse(f"http://{host}").is_local is local


def test_options_come_from_the_environment() -> None:
    assert ServerOptions.from_environment({}) == ServerOptions()
    values = {"API_KEY": KEY, "GRPC_PORT": "6334", "QUANTIZATION": "turbo", "SHARDS": "3", "REPLICAS": "2"}
    values["PATIENCE_S"] = "0"
    options = ServerOptions.from_environment({f"EARSHOT_QDRANT_{name}": value for name, value in values.items()})
    assert options == ServerOptions(KEY, 6334, "turbo", 3, 2, 0)
    assert KEY not in repr(options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRPC_PORT", "70000"),
        ("GRPC_PORT", "x"),
        ("SHARDS", "0"),
        ("PATIENCE_S", "-1"),
        ("QUANTIZATION", "int4"),
        ("API_KEY", "schlüssel"),
        ("API_KEY", "a\nb"),
    ],
)
def test_an_option_without_meaning_is_refused(name: str, value: str) -> None:
    with pytest.raises(LibraryError, match=f"EARSHOT_QDRANT_{name}") as caught:
        ServerOptions.from_environment({f"EARSHOT_QDRANT_{name}": value})
    assert name != "API_KEY" or value not in str(caught.value)


def test_a_library_in_a_folder_does_not_pay_for_the_client() -> None:
    code = "import sys, earshot.library, earshot.commands, engine.memory.edge; "
    code += "raise SystemExit(bool({'qdrant_client', 'grpc', 'httpx', 'tenacity'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# Who may ask


@pytest.mark.parametrize("by_grpc", [False, True])
def test_a_guarded_server_wants_the_key_and_nobody_sees_it(by_grpc: bool, caplog: pytest.LogCaptureFixture) -> None:
    with stub(key=KEY) as guarded:
        port = guarded.grpc_port if by_grpc else None
        for key, wanted in (
            (None, "the server's key in EARSHOT_QDRANT_API_KEY"),
            ("other-" + KEY, "a key with the right"),
        ):
            with (
                ServerMemory(guarded.url, ServerOptions(api_key=key, grpc_port=port)) as memory,
                pytest.raises(MemoryStoreError, match=wanted) as caught,
            ):
                memory.ensure_space(SPACE, DIM)
            assert KEY not in str(caught.value)
        with ServerMemory(guarded.url, ServerOptions(api_key=KEY, grpc_port=port)) as memory:
            memory.ensure_space(SPACE, DIM)
            memory.upsert(batch(3))
            assert memory.count() == 3
            assert KEY not in repr(vars(memory))
    assert KEY not in caplog.text


def test_a_key_that_may_only_read_searches_and_cannot_write(qdrant: Stub, opened: Opened) -> None:
    opened().upsert(batch(3))
    qdrant.fault = lambda method, path: fails(403, "Forbidden: write access") if method in ("PUT", "PATCH") else False
    memory = opened(api_key=KEY)
    assert len(memory.search(batch(1)[0].vector, 5)) == 3
    with pytest.raises(MemoryStoreError, match="a key with the right to do that") as caught:
        memory.upsert(batch(1))
    assert "ask whoever runs the server" in str(caught.value)


def test_a_key_in_the_clear_is_said_for_another_machine_only(qdrant: Stub, opened: Opened) -> None:
    said: list[str] = []
    opened(said, api_key=KEY)
    assert said == []
    memory = ServerMemory("http://192.0.2.1:6333", ServerOptions(api_key=KEY, patience_s=0))
    memory.say = said.append
    memory._link._client.info = lambda: models.VersionInfo(title="qdrant", version="1.20.0")  # type: ignore[method-assign]
    memory._link.check()
    memory.close()
    assert len(said) == 1
    assert "in the clear" in said[0]
    assert KEY not in said[0]


# What it is


@pytest.mark.parametrize("by_grpc", [False, True])
@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.19.3", "1.20 or newer.*update the server"), ("2.0.0", "before 2.0; update earshot"), ("9", "a Qdrant server")],
)
def test_a_version_that_does_not_fit_is_refused(qdrant: Stub, version: str, expected: str, by_grpc: bool) -> None:
    qdrant.store.version = version
    options = ServerOptions(grpc_port=qdrant.grpc_port if by_grpc else None)
    with ServerMemory(qdrant.url, options) as memory, pytest.raises(MemoryStoreError, match=expected) as caught:
        memory.ensure_space(SPACE, DIM)
    assert version in str(caught.value)
    assert qdrant.paths("PUT", "collections") == []


def test_a_version_much_newer_than_the_client_is_said_and_used(qdrant: Stub, opened: Opened) -> None:
    said: list[str] = []
    qdrant.store.version = "1.99.0"
    memory = opened(said)
    memory.known_space()
    memory.ensure_space(SPACE, DIM)
    (line,) = said
    assert "1.99.0" in line


@pytest.mark.parametrize(
    "fault",
    [
        (200, {"Content-Type": "text/html"}, b"<html>Welcome to nginx!</html>"),
        (404, {"Content-Type": "text/html"}, b"<html>not here</html>"),
        (200, {"Content-Type": "application/json"}, b'{"name": "node", "version": {"number": "8.1"}}'),
        (200, {"Content-Type": "application/json"}, b'{"title": "Weaviate", "version": "1.30.0"}'),
    ],
    ids=["page", "missing page", "Elasticsearch", "Weaviate"],
)
def test_something_else_than_qdrant_is_said(qdrant: Stub, fault: Fault) -> None:
    qdrant.fault = lambda method, path: fault
    with (
        ServerMemory(qdrant.url) as memory,
        pytest.raises(MemoryStoreError, match=r"something else than Qdrant at http://127.*check host, port and prefix"),
    ):
        memory.ensure_space(SPACE, DIM)
    assert len(qdrant.requests) == 1


def test_a_server_that_sends_us_elsewhere_is_said_with_the_place(qdrant: Stub) -> None:
    qdrant.fault = lambda method, path: (301, {"Location": "https://elsewhere:6333/"}, b"")
    with ServerMemory(qdrant.url) as memory, pytest.raises(MemoryStoreError, match="use https://elsewhere:6333/"):
        memory.ensure_space(SPACE, DIM)


def test_tls_that_is_not_spoken_is_said(qdrant: Stub) -> None:
    with (
        ServerMemory(qdrant.url.replace("http:", "https:")) as memory,
        pytest.raises(MemoryStoreError, match="TLS with a certificate trusted here"),
    ):
        memory.ensure_space(SPACE, DIM)


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificate with openssl")
def test_a_certificate_has_to_be_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, key = tmp_path / "own.pem", tmp_path / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    whose = ["-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(["openssl", "req", "-x509", *kind, *whose], check=True, capture_output=True)
    with pem.open("a") as file:
        file.write(key.read_text())
    with stub(certificate=pem) as guarded:
        with ServerMemory(guarded.url) as memory, pytest.raises(MemoryStoreError, match="SSL_CERT_FILE may name"):
            memory.ensure_space(SPACE, DIM)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        with ServerMemory(guarded.url) as memory:
            memory.ensure_space(SPACE, DIM)
            memory.upsert(batch(2))
            assert memory.count() == 2


def test_a_prefix_is_kept(qdrant: Stub) -> None:
    qdrant.prefix = "/team/sounds"
    with ServerMemory(f"{qdrant.url}/team/sounds/") as memory:
        memory.ensure_space(SPACE, DIM)
        memory.upsert(batch(2))
        assert memory.count() == 2
    with ServerMemory(qdrant.url) as memory, pytest.raises(MemoryStoreError, match="something else than Qdrant"):
        memory.ensure_space(SPACE, DIM)


# What stands behind the alias


def test_another_space_behind_the_alias_is_refused_with_both_names(qdrant: Stub, opened: Opened) -> None:
    opened()
    with ServerMemory(qdrant.url) as memory:
        assert memory.known_space() == (SPACE, DIM)
        with pytest.raises(SpaceMismatchError) as caught:
            memory.ensure_space("other@ba9876543210", 9)
    assert SPACE in str(caught.value)
    assert "other@ba9876543210" in str(caught.value)
    assert [one.name for one in qdrant.store.local.get_collections().collections] == ["sounds-tiny-model@0123456789ab"]


def test_a_collection_that_earshot_did_not_make_is_left_alone(qdrant: Stub) -> None:
    vectors = models.VectorParams(size=DIM, distance=models.Distance.DOT)
    qdrant.store.local.create_collection("theirs", vectors_config=vectors)
    name = models.CreateAlias(collection_name="theirs", alias_name="sounds")
    qdrant.store.local.update_collection_aliases([models.CreateAliasOperation(create_alias=name)])
    with ServerMemory(qdrant.url) as memory, pytest.raises(MemoryStoreError, match="earshot did not make"):
        memory.ensure_space(SPACE, DIM)


def test_two_who_make_the_same_at_the_same_moment_share_it(qdrant: Stub, opened: Opened) -> None:
    other = ServerMemory(qdrant.url)

    def meanwhile(method: str, path: str) -> Fault | bool:
        if method == "PUT" and "0123456789ab" in path:
            qdrant.fault = lambda method, path: False
            other.ensure_space(SPACE, DIM)
        return False

    qdrant.fault = meanwhile
    memory = opened()
    memory.upsert(batch(2))
    assert other.count() == 2
    other.close()


def test_killed_while_making_it_the_next_one_completes_it(qdrant: Stub, opened: Opened) -> None:
    qdrant.fault = lambda method, path: (
        fails(400, "killed here") if path.endswith("/aliases") and method == "POST" else False
    )
    with pytest.raises(MemoryStoreError, match="killed here"):
        opened()
    qdrant.fault = lambda method, path: False
    assert ServerMemory(qdrant.url).known_space() is None
    opened().upsert(batch(1))
    indexes = qdrant.store.indexes["sounds-tiny-model@0123456789ab"]
    assert {"folded__paths", "folded__title", "sha256", "duration_s", "window", "holders", "held"} <= indexes.keys()
    assert all(schema.enable_hnsw is False for schema in indexes.values())
    assert indexes["folded__paths"].prefix is True


def test_settings_reach_the_collection(qdrant: Stub, opened: Opened) -> None:
    memory = opened(quantization="scalar", shards=3, replicas=2)
    (made,) = qdrant.store.created.values()
    assert (made.shard_number, made.replication_factor) == (3, 2)
    assert made.quantization_config == models.ScalarQuantization(
        scalar=models.ScalarQuantizationConfig(type="int8", quantile=0.99, memory="pinned")
    )
    params = memory._open().search_params(10, Filter())
    assert params.quantization == models.QuantizationSearchParams(rescore=True, oversampling=3.0)
    assert memory._open().search_params(10, Filter((Clause("paths", "~", "a"),))) == models.SearchParams(exact=True)


def test_who_only_searches_rescores_too_and_is_told_of_a_wish_that_comes_too_late(qdrant: Stub, opened: Opened) -> None:
    opened()
    said: list[str] = []
    opened(said, quantization="turbo")
    assert len(said) == 1
    assert "without quantization, and stays so" in said[0]
    with stub() as other:
        with ServerMemory(other.url, ServerOptions(quantization="turbo")) as memory:
            memory.ensure_space(SPACE, DIM)
        with ServerMemory(other.url) as memory:
            memory.ensure_space(SPACE, DIM)
            assert memory._open().search_params(10, Filter()).quantization is not None


# Much at once


@pytest.mark.parametrize("by_grpc", [False, True])
def test_points_go_out_in_batches_on_a_few_streams(qdrant: Stub, opened: Opened, by_grpc: bool) -> None:
    memory = opened(grpc_port=qdrant.grpc_port if by_grpc else None)
    under_way, most, lock = 0, 0, threading.Lock()
    upsert = qdrant.store.local.upsert
    sizes: list[int] = []

    def slow(method: str, path: str) -> bool:
        nonlocal under_way, most
        if "/points" in path or path == "Upsert":
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.02)
            with lock:
                under_way -= 1
        return False

    def watched(name: str, points: list[Any], **named: Any) -> Any:
        sizes.append(len(points))
        return upsert(name, points, **named)

    qdrant.fault = slow
    qdrant.store.local.upsert = watched  # type: ignore[method-assign]
    memory.upsert([*batch(1000), *batch(1000)])
    assert sorted(sizes) == [104, *[128] * 7], "each id once"
    assert 2 <= most <= server.STREAMS
    assert memory.count() == 1000


def test_many_filters_are_asked_in_parts(qdrant: Stub, opened: Opened) -> None:
    memory = opened()
    memory.upsert([point for number in range(200) for point in batch(1, number)])
    wheres = [Filter((Clause("sha256", "=", str(number)),)) for number in range(200)]
    found = memory.search_many(batch(1)[0].vector, 1, wheres)
    assert [hits[0].payload["sha256"] for hits in found] == [str(number) for number in range(200)]
    assert len(qdrant.paths("POST", "query/batch")) == 4


def test_no_graph_is_built_while_points_pour_in(qdrant: Stub, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BULK_POINTS", 3)
    memory = opened()
    (on,) = qdrant.store.thresholds
    memory.upsert(batch(3))
    memory.upsert(batch(3, 1))
    assert qdrant.store.thresholds == [on, 0], "once a run"
    qdrant.store.statuses = ["green", "yellow", "grey", "yellow"]
    memory.optimise()
    assert qdrant.store.thresholds == [on, 0, on]
    assert qdrant.store.statuses == [], "waited until it was green"
    memory.optimise()
    assert qdrant.store.thresholds == [on, 0, on], "nothing was written since"
    memory.upsert(batch(3, 2))
    killed = opened()
    killed.optimise()
    assert qdrant.store.thresholds == [on, 0, on, 0, on], "what a killed run left is put right"


def test_a_few_points_leave_the_graph_alone(qdrant: Stub, opened: Opened) -> None:
    memory = opened()
    (on,) = qdrant.store.thresholds
    memory.upsert(batch(4))
    memory.optimise()
    memory.close()
    assert qdrant.store.thresholds == [on]


@pytest.mark.parametrize("is_away", [False, True])
def test_a_run_that_breaks_off_lets_the_server_build_again(
    qdrant: Stub, opened: Opened, monkeypatch: pytest.MonkeyPatch, is_away: bool
) -> None:
    """Asked once, whatever comes of it: who ends a run does not wait, and no error comes in place of its own."""
    monkeypatch.setattr(server, "BULK_POINTS", 3)
    memory = opened()
    (on,) = qdrant.store.thresholds
    memory.upsert(batch(3))
    qdrant.fault = lambda method, path: None if is_away else False
    before = len(qdrant.requests)
    memory.close()
    assert len(qdrant.requests) - before == 1
    assert qdrant.store.thresholds == ([on, 0] if is_away else [on, 0, on])


def test_a_graph_that_takes_long_is_left_to_the_server(
    qdrant: Stub, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BULK_POINTS", 3)
    said: list[str] = []
    memory = opened(said)
    memory.upsert(batch(3))
    monkeypatch.setattr(server, "OPTIMISE_S", 0.0)
    qdrant.store.statuses = ["green", *["yellow"] * 1000]
    memory.optimise()
    assert "goes on building the graph by itself" in said[-1]
    memory.upsert(batch(3))
    monkeypatch.setattr(server, "OPTIMISE_S", 600.0)
    qdrant.store.statuses = ["green", *["yellow"] * 1000]
    with memory.until(lambda: True):
        memory.optimise()
    qdrant.store.statuses = ["green", "red"]
    memory.upsert(batch(3))
    qdrant.store.statuses = ["green", "green", "red"]
    with pytest.raises(MemoryStoreError, match="building the graph failed"):
        memory.optimise()


def test_an_index_that_a_newer_earshot_wants_is_added_by_the_next_run(qdrant: Stub, opened: Opened) -> None:
    memory = opened()
    indexes = qdrant.store.indexes["sounds-tiny-model@0123456789ab"]
    del indexes["folded__artist"]
    memory.upsert(batch(1))
    assert "folded__artist" in indexes


# Away, busy, full


@pytest.mark.parametrize(
    "fault",
    [None, fails(503, "starting"), fails(500, "consensus"), fails(429, "slow down", {"Retry-After": "0"}), fails(429)],
    ids=["drops", "503", "500", "429", "429 without a time"],
)
def test_what_passes_is_asked_again_until_it_has(qdrant: Stub, opened: Opened, fault: Fault) -> None:
    said: list[str] = []
    memory = opened(said)
    for where, act in (
        ("/points", lambda: memory.upsert(batch(300))),
        ("/delete", lambda: memory.delete(Filter((Clause("sha256", "=", "9"),)))),
        ("/payload", lambda: memory.set_payload(Filter(), {"title": "x"})),
        ("/count", memory.count),
        ("/scroll", lambda: list(memory.scroll())),
        ("/query", lambda: memory.search(batch(1)[0].vector, 3)),
    ):
        said.clear()
        qdrant.fault = away(3, fault, where)
        act()
        assert "does not answer" in said[0]
        assert "Ctrl-C stops, nothing is lost" in said[0]
        assert said[1].endswith("answers again")
        assert len(said) % 2 == 0, "each time away and back, however many streams and tries"
    assert memory.count(Filter((Clause("title", "=", "x"),))) == 300


@pytest.mark.parametrize("code", ["UNAVAILABLE", "ABORTED", "DEADLINE_EXCEEDED"])
def test_what_passes_by_grpc_is_asked_again(qdrant: Stub, opened: Opened, code: str) -> None:
    said: list[str] = []
    memory = opened(said, grpc_port=qdrant.grpc_port)
    qdrant.fault = away(3, fails(0, "away", {"code": code}), "Upsert")
    memory.upsert(batch(300))
    assert memory.count() == 300
    assert code in said[0]
    assert said[-1].endswith("answers again")


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (fails(500, "Service internal error: No space left on device (os error 28)"), "room on the server's disk"),
        (fails(507, "insufficient storage"), "room on the server's disk"),
        (fails(413, "JSON payload (33554500 bytes) is larger than max"), "raise the limit of the proxy"),
        (
            (413, {"Content-Type": "text/html"}, b"<html>Request Entity Too Large</html>"),
            "raise the limit of the proxy",
        ),
        (fails(400, "Wrong input: Vector dimension error"), "Vector dimension error"),
        (fails(404, "Not found: Collection doesn't exist"), "Collection doesn't exist"),
    ],
)
def test_what_does_not_pass_is_said_at_once(qdrant: Stub, opened: Opened, fault: Fault, expected: str) -> None:
    memory = opened()
    memory.upsert(batch(1))
    before = len(qdrant.paths("PUT", "/points"))
    qdrant.fault = lambda method, path: fault if path.endswith("/points") else False
    with pytest.raises(MemoryStoreError, match=expected) as caught:
        memory.upsert(batch(1))
    assert len(qdrant.paths("PUT", "/points")) == before + 1
    assert qdrant.url in str(caught.value)


@pytest.mark.parametrize(
    ("code", "words", "expected"),
    [
        ("INTERNAL", "No space left on device", "room on the server's disk"),
        ("RESOURCE_EXHAUSTED", "Received message larger than max (9 vs. 4)", "raise the limit"),
        ("PERMISSION_DENIED", "write access", "the server's key"),
        ("INVALID_ARGUMENT", "Vector dimension error", "Vector dimension error"),
    ],
)
def test_what_does_not_pass_by_grpc_is_said_at_once(
    qdrant: Stub, opened: Opened, code: str, words: str, expected: str
) -> None:
    memory = opened(grpc_port=qdrant.grpc_port)
    qdrant.fault = lambda method, path: fails(0, words, {"code": code}) if path == "Upsert" else False
    with pytest.raises(MemoryStoreError, match=expected):
        memory.upsert(batch(1))
    assert len(qdrant.paths("gRPC", "Upsert")) == 1


@pytest.mark.parametrize("by_grpc", [False, True])
def test_nobody_there_is_said_when_patience_ends(by_grpc: bool) -> None:
    with stub() as gone:
        url, port = gone.url, gone.grpc_port
    said: list[str] = []
    options = ServerOptions(patience_s=0.2, grpc_port=port if by_grpc else None)
    with ServerMemory(url, options) as memory:
        memory.say = said.append
        with pytest.raises(MemoryStoreError, match=r"no answer from .* start it, or check host and port"):
            memory.ensure_space(SPACE, DIM)
    assert said
    assert url in said[0]


@pytest.mark.parametrize("wished_s", [15.0, 0.001])
def test_patience_is_not_exceeded_by_a_pause(monkeypatch: pytest.MonkeyPatch, wished_s: float) -> None:
    """The last pause ends with the patience, however long it was drawn; the first try is the only one that is said."""
    with stub() as gone:
        url = gone.url
    pauses_s: list[float] = []
    said: list[str] = []
    monkeypatch.setattr("engine.memory.server_link._pause", lambda state: wished_s)
    memory = ServerMemory(url, ServerOptions(patience_s=0.1))
    memory.say = said.append
    sleep = memory._link._sleep
    monkeypatch.setattr(memory._link, "_sleep", lambda pause_s: (pauses_s.append(pause_s), sleep(pause_s)))
    with memory, pytest.raises(MemoryStoreError, match="no answer"):
        memory.ensure_space(SPACE, DIM)
    assert pauses_s
    assert max(pauses_s) <= 0.1
    assert len(said) == 1


def test_a_run_that_ends_says_that_it_may_go_on(qdrant: Stub, opened: Opened) -> None:
    memory = opened(patience_s=0.05)
    memory.upsert(batch(1))
    qdrant.fault = lambda method, path: None
    with pytest.raises(MemoryStoreError, match="what was saved by now is kept, and the same command goes on"):
        memory.upsert(batch(1))
    with pytest.raises(MemoryStoreError, match="no answer") as caught:
        ServerMemory(qdrant.url, ServerOptions(patience_s=0)).ensure_space(SPACE, DIM)
    assert "goes on" not in str(caught.value)


def test_a_host_without_a_name_is_said() -> None:
    with (
        ServerMemory("http://nobody.invalid:6333", ServerOptions(patience_s=0)) as memory,
        pytest.raises(MemoryStoreError, match=r"no answer from .*nobody\.invalid"),
    ):
        memory.ensure_space(SPACE, DIM)


def test_who_writes_is_more_patient_than_who_asks(qdrant: Stub, opened: Opened) -> None:
    memory = opened(patience_s=500)
    assert memory._link.patience_s == 10
    with memory.until(lambda: False):
        assert memory._link.patience_s == 500
    assert memory._link.patience_s == 10
    memory.upsert(batch(1))
    assert memory._link.patience_s == 500


def test_a_wait_ends_when_nobody_waits_any_more(qdrant: Stub, opened: Opened) -> None:
    memory = opened()
    memory.upsert(batch(1))
    qdrant.fault = lambda method, path: None
    stop = threading.Event()
    memory.say = lambda _: stop.set()
    with memory.until(stop.is_set), pytest.raises(KeyboardInterrupt):
        memory.upsert(batch(600))
    qdrant.fault = lambda method, path: False
    memory.upsert(batch(600))
    assert memory.count() == 600


def test_closing_ends_the_waits_of_other_threads(qdrant: Stub, opened: Opened) -> None:
    memory = opened()
    memory.upsert(batch(1))
    waiting, ended = threading.Event(), []

    def write() -> None:
        with pytest.raises(KeyboardInterrupt):
            memory.upsert(batch(600))
        ended.append(True)

    qdrant.fault = lambda method, path: None
    memory.say = lambda _: waiting.set()
    thread = threading.Thread(target=write)
    thread.start()
    assert waiting.wait(30)
    memory.close()
    thread.join(30)
    assert ended


def test_closing_ends_a_write_that_is_just_beginning(
    qdrant: Stub, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = opened()
    begin = memory._begin_writing
    monkeypatch.setattr(memory, "_begin_writing", lambda *args: (begin(*args), memory.close()))
    with pytest.raises(KeyboardInterrupt):
        memory.upsert(batch(600))


def test_a_server_that_restarts_is_found_again_by_grpc(qdrant: Stub, opened: Opened) -> None:
    said: list[str] = []
    memory = opened(said, grpc_port=qdrant.grpc_port)
    memory.upsert(batch(3))
    qdrant.stop_grpc()
    back = threading.Timer(0.5, qdrant.start_grpc)
    back.start()
    memory.upsert(batch(300, 1))
    back.join()
    assert memory.count() == 303
    assert "UNAVAILABLE" in said[0]
    assert said[-1].endswith("answers again")


def test_a_slow_answer_is_asked_for_again(qdrant: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.memory.server_link.REQUEST_S", 1)
    with ServerMemory(qdrant.url) as memory:
        said: list[str] = []
        memory.say = said.append
        memory.ensure_space(SPACE, DIM)
        slow = away(1, None, "/count")
        qdrant.fault = lambda method, path: bool(slow(method, path) is None and time.sleep(1.5))
        assert memory.count() == 0
    assert "timed out" in said[0]


def test_an_error_of_ours_does_not_pass() -> None:
    assert not passes(ValueError("x"))
    assert not passes(httpx.UnsupportedProtocol("x"))
    assert not passes(EarshotError("x"))
