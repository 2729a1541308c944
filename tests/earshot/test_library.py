from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from engine.errors import AudioError, LibraryBusyError, LibraryError, QueryError, SpaceMismatchError
from engine.fakes import FakeEncoders
from tests.sounds import tone, write_sound


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for hz in (125, 500, 2000):
        write_sound(tmp_path / "sounds" / f"{hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000)
    return tmp_path / "sounds"


@pytest.fixture
def library(tmp_path: Path, sounds: Path):
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([sounds])
        yield library


def test_words_find_the_sound(library: Library):
    [best] = library.search("band500")
    assert Path(best.path).name == "500.wav"
    assert (best.start_s, best.end_s, best.duration_s) == (0.0, 2.0, 2.0)
    assert best.score == pytest.approx(1.0)


def test_a_sound_finds_its_like(library: Library, tmp_path: Path):
    query = write_sound(tmp_path / "query.ogg", tone(0.7, rate_hz=44_100, hz=480), rate_hz=44_100)
    [best] = library.search(audio=query)
    assert Path(best.path).name == "500.wav"


def test_what_is_not_there_is_not_found(library: Library):
    assert library.search("band63") == []
    assert len(library.search("band63", min_relevance=0)) == 3


def test_another_space_is_refused_with_both_names(library: Library, tmp_path: Path):
    library.close()
    with pytest.raises(SpaceMismatchError, match=r"fake@.*other@"):
        Library(tmp_path / "library", encoders=FakeEncoders("other"))


def test_a_library_is_found_again(library: Library, tmp_path: Path):
    before = library.status()
    library.close()
    with Library(tmp_path / "library", encoders=FakeEncoders(), create=False) as again:
        assert again.status() == before
        assert len(again.search("band125")) == 1


def test_no_library_is_made_by_asking(tmp_path: Path):
    with pytest.raises(LibraryError, match="earshot index"):
        Library(tmp_path / "nowhere", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_one_process_at_a_time(library: Library, tmp_path: Path, sounds: Path):
    with Library(tmp_path / "library", encoders=FakeEncoders()) as second:
        assert second.status().files == 3
        with pytest.raises(LibraryBusyError, match="held by process"):
            second.index([sounds])


def test_encode_audio_takes_any_rate(library: Library):
    a = library.encode_audio(tone(1.5, rate_hz=44_100, hz=500), 44_100)
    b = library.encode_audio(tone(1.5, rate_hz=8000, hz=500), 8000)
    assert a.dtype == np.float32
    assert float(a @ b) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda lib: lib.search(), QueryError),
        (lambda lib: lib.search("a", audio="b.wav"), QueryError),
        (lambda lib: lib.search("a", k=0), QueryError),
        (lambda lib: lib.search(" "), QueryError),
        (lambda lib: lib.search("a", filters=["nonsense"]), QueryError),
        (lambda lib: lib.search(audio="missing.wav"), AudioError),
        (lambda lib: lib.encode_audio(np.zeros((2, 8000), np.float32), 8000), ValueError),
        (lambda lib: lib.encode_audio(np.zeros(0, np.float32), 8000), AudioError),
        (lambda lib: lib.index(["missing"]), LibraryError),
    ],
)
def test_bad_calls(library: Library, call, error: type[Exception]):
    with pytest.raises(error):
        call(library)


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(LibraryError, match="choose another"):
        Library(tmp_path / "file" / "library", encoders=FakeEncoders())


def test_check_compares_memory_and_ledger(library: Library):
    assert "9 windows" in library.check()["memory"]
    library._open_memory(0).upsert([])
    library._ledger.complete("0" * 64, 5, 1.0)
    with pytest.raises(LibraryError, match="14"):
        library.check()


def test_closing_twice_is_fine(library: Library):
    library.close()
    library.close()
