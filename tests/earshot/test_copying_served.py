"""`earshot copy` to a server and back, on the stub of a Qdrant server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from earshot import Library
from earshot.copying import COPY, copy_library
from engine.errors import LibraryError, MemoryStoreError
from engine.fakes import FakeEncoders
from engine.memory.edge import EdgeMemory
from indexer import transfer
from indexer.ledger import Ledger
from tests.engine.memory.stub_qdrant import Stub, fails, stub
from tests.sounds import tone, write_sound

SPACE = FakeEncoders().space


@pytest.fixture
def server() -> Iterator[Stub]:
    with stub() as server:
        yield server


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go to a machine of this name: another user-data folder."""
    monkeypatch.setenv("EARSHOT_QDRANT_PATIENCE_S", "0")

    def goes_to(name: str) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / name))

    goes_to("first")
    return goes_to


def sounds(folder: Path, *tones_hz: int) -> Path:
    for hz in tones_hz:
        write_sound(folder / f"{hz}.wav", tone(2.0 + hz % 3, rate_hz=8000, hz=hz), rate_hz=8000)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = sounds(tmp_path / "sounds", 125, 250, 500, 1000)
    shutil.copy(folder / "125.wav", folder / "again.wav")
    (folder / "broken.wav").write_text("no sound")
    with Library(tmp_path / "source", encoders=FakeEncoders()) as library:
        library.index([folder])
    return tmp_path / "source"


def rows(folder: Path) -> list[Any]:
    ledger = Ledger(folder / "ledger.sqlite")
    found = [ledger._all(f"SELECT * FROM {table} ORDER BY 1") for table in ("files", "contents")]
    settings = [row for row in ledger._all("SELECT * FROM settings ORDER BY 1") if row[0] != COPY]
    ledger.close()
    return [*found, settings]


def points(folder: Path) -> dict[str, tuple[Any, Any]]:
    with EdgeMemory(folder / "memory" / "sounds") as memory:
        memory.ensure_space(SPACE.space_id, SPACE.dim)
        return {r.id: (r.payload, np.round(r.vector, 6).tolist()) for r in memory.scroll(with_vectors=True)}


def answers(library: str | Path) -> list[Any]:
    with Library(library, encoders=FakeEncoders(), create=False) as opened:
        found = [m for hz in (125, 500, 1000) for m in opened.search(f"band{hz}", k=20, min_relevance=0)]
        return [(m.path, m.paths, m.start_s, m.end_s, round(m.score, 5)) for m in found]


@pytest.mark.parametrize("way", ["REST", "gRPC"])
def test_to_a_server_and_back(
    source: Path,
    server: Stub,
    machine: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    if way == "gRPC":
        monkeypatch.setenv("EARSHOT_QDRANT_GRPC_PORT", str(server.grpc_port))
    there = copy_library(source, server.url)
    assert (there.files, there.failed, there.written) == (5, 1, there.windows)
    assert sorted(answers(server.url)) == sorted(answers(source))
    back = copy_library(server.url, tmp_path / "back")
    assert (back.files, back.failed, back.written) == (5, 1, there.windows)
    assert rows(tmp_path / "back") == rows(source)
    assert points(tmp_path / "back") == points(source)
    assert sorted(answers(tmp_path / "back")) == sorted(answers(source))
    assert copy_library(source, server.url).written == 0
    assert copy_library(server.url, tmp_path / "back").written == 0
    assert bool(server.paths("gRPC", "Upsert")) == (way == "gRPC")


def test_nothing_is_heard_again_on_the_server(source: Path, server: Stub, machine: Callable[[str], None]) -> None:
    copy_library(source, server.url)
    with Library(server.url, encoders=FakeEncoders()) as library:
        report = library.index([source.parent / "sounds"])
    assert (report.indexed, report.windows, report.skipped) == (0, 0, 6)
    with pytest.raises(LibraryError, match="expected an empty place"):
        copy_library(source, server.url)  # it has a life of its own now


def test_a_server_that_goes_away_and_comes_back(
    source: Path, server: Stub, machine: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "AT_ONCE", 4)
    answered = iter([False] * 2)

    def away(method: str, path: str) -> Any:
        return next(answered, fails(503)) if method == "PUT" and path.endswith("/points") else False

    server.fault = away
    with pytest.raises(MemoryStoreError, match=r"expected|server"):
        copy_library(source, server.url)
    with pytest.raises(LibraryError, match="an unfinished copy"):
        Library(server.url, encoders=FakeEncoders())
    server.fault = lambda method, path: False
    report = copy_library(source, server.url)
    assert 0 < report.written < report.windows
    assert sorted(answers(server.url)) == sorted(answers(source))


def test_a_server_that_was_never_there_leaves_nothing_behind(
    source: Path, server: Stub, machine: Callable[[str], None], tmp_path: Path
) -> None:
    server.fault = lambda method, path: None
    with pytest.raises(MemoryStoreError, match="no answer"):
        copy_library(source, server.url)
    assert not list((tmp_path / "first").rglob("*"))
    server.fault = lambda method, path: False
    with pytest.raises(LibraryError, match="no library in"):
        Library(server.url, encoders=FakeEncoders(), create=False)


def test_libraries_of_two_machines_on_one_server(
    source: Path, server: Stub, machine: Callable[[str], None], tmp_path: Path
) -> None:
    """Of a sound that both have, each keeps its own paths; and each takes home its own."""
    other = sounds(tmp_path / "elsewhere" / "other words", 500, 2000)
    with Library(tmp_path / "second source", encoders=FakeEncoders()) as library:
        library.index([other])
    copy_library(source, server.url)
    machine("second")
    copy_library(tmp_path / "second source", server.url)
    assert copy_library(tmp_path / "second source", server.url).written == 0
    found = {paths for _, paths, *_ in answers(server.url)}
    assert (str(tmp_path / "elsewhere" / "other words" / "500.wav"), str(tmp_path / "sounds" / "500.wav")) in found
    copy_library(server.url, tmp_path / "second back")
    assert {path for path, *_ in answers(tmp_path / "second back")} == {str(p) for p in other.iterdir()}
    machine("first")
    assert copy_library(source, server.url).written == 0
    copy_library(server.url, tmp_path / "back")
    assert rows(tmp_path / "back") == rows(source)


def test_a_machine_that_never_indexed_has_nothing_to_take_home(
    source: Path, server: Stub, machine: Callable[[str], None], tmp_path: Path
) -> None:
    copy_library(source, server.url)
    machine("second")
    with pytest.raises(LibraryError, match="no ledger here of"):
        copy_library(server.url, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_empty_server_is_no_library(server: Stub, machine: Callable[[str], None], tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=f"no library in http.*earshot index FOLDER --library {server.url}"):
        copy_library(server.url, tmp_path / "back")
