"""A library on a server heard anew: by one machine, by two, killed between server and ledger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from earshot import Library
from engine.errors import LibraryError, SpaceMismatchError
from engine.fakes import FakeEncoders
from indexer.ledger import Ledger
from tests.engine.memory.stub_qdrant import Stub
from tests.sounds import write_tones

pytestmark = pytest.mark.usefixtures("machine")

A, B = FakeEncoders("a", dim=256), FakeEncoders("b", dim=192, hop_s=0.25)
NAMES = (A.space.space_id, B.space.space_id)


def found(library: Library, words: str) -> list[str]:
    return [Path(moment.path).name for moment in library.search(words)]


def aliases(qdrant: Stub) -> dict[str, str]:
    return {a.alias_name: a.collection_name for a in qdrant.store.local.get_aliases().aliases}


def test_it_switches_aliases_and_goes_back(qdrant: Stub, tmp_path: Path) -> None:
    folder = write_tones(tmp_path / "sounds", 125, 500, 2000)
    with Library(qdrant.url, encoders=A) as library:
        library.index([folder])
        library.remember(["band500 hums"])
        report = library.reindex(encoders=B)
        assert (report.switched, report.index.indexed) == (True, 3)
        assert [found.text for found in library.recalled(B.encode_text(["band500"])[0], 1)] == ["band500 hums"]
        assert library.forget() == 1
        assert (library.status().space_id, library.status().previous) == (NAMES[1], NAMES[0])
        assert found(library, "band500") == ["500.wav"]
        assert library.check()["memory"] == "15 windows, as many as the ledger has"
        assert set(aliases(qdrant)) == {"sounds", "sounds-previous", "captions"}
        assert library.rollback(encoders=A) == NAMES[0]
    with Library(qdrant.url, encoders=A) as library:
        assert found(library, "band500") == ["500.wav"]
        assert library.check()["memory"] == "9 windows, as many as the ledger has"
        assert library.forget_previous() == [NAMES[1]]
        assert set(aliases(qdrant)) == {"sounds", "captions"}
        assert len(qdrant.store.local.get_collections().collections) == 2
        with pytest.raises(LibraryError, match="no space before"):
            library.rollback()


def test_the_last_machine_switches_and_the_first_follows(
    qdrant: Stub, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    here, there = write_tones(tmp_path / "here", 125, 500), write_tones(tmp_path / "there", 500, 2000)
    with Library(qdrant.url, encoders=A) as one:
        one.index([here])
    machine("two")
    with Library(qdrant.url, encoders=A) as two:
        two.index([there])
    machine("one")
    with Library(qdrant.url, encoders=A) as one:
        report = one.reindex(encoders=B)
        assert not report.switched
        assert "1 sounds of" in str(report.index.refused)
        assert one.status().filling == NAMES[1]
        assert found(one, "band2000") == ["2000.wav"]
    machine("two")
    with Library(qdrant.url, encoders=A) as two:
        assert two.reindex(encoders=B).switched
        assert found(two, "band125") == ["125.wav"]
    machine("one")
    with pytest.raises(SpaceMismatchError, match=NAMES[1]), Library(qdrant.url, encoders=A) as one:
        one.search("band500")
    with Library(qdrant.url, encoders=B) as one:
        assert found(one, "band2000") == ["2000.wav"]
        assert one.check()["memory"] == "10 windows, as many as the ledger has"
        assert one.index([here]).skipped == 2


def test_killed_between_server_and_ledger_it_follows(
    qdrant: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tones(tmp_path / "sounds", 125, 500)

    def killed(*_: object) -> None:
        raise SystemExit(9)

    with Library(qdrant.url, encoders=A) as library:
        library.index([folder])
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "become", killed)
            with pytest.raises(SystemExit):
                library.reindex(encoders=B)
    assert aliases(qdrant)["sounds"].endswith(NAMES[1])
    with Library(qdrant.url, encoders=B) as library:
        assert found(library, "band500") == ["500.wav"]
        assert library.check()["memory"] == "10 windows, as many as the ledger has"
        assert library.rollback(encoders=A) == NAMES[0]
