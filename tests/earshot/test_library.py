from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earshot import Library
from earshot.clips import save_clips
from earshot.limits import MOST_RESULTS
from earshot.lock import LibraryLock
from engine.audio import read_stretch
from engine.bundle import Calibration
from engine.errors import AudioError, LibraryBusyError, LibraryError, QueryError, SpaceMismatchError
from engine.fakes import FakeEncoders
from engine.types import Moment
from indexer.ledger import Ledger
from tests.sounds import noise, tone, write_sound


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


def test_words_and_a_sound_are_one_question(library: Library, tmp_path: Path):
    query = write_sound(tmp_path / "query.wav", tone(3.0, rate_hz=8000, hz=500), rate_hz=8000)
    found = library.search("band2000", audio=query, min_relevance=0)
    assert {Path(moment.path).name for moment in found[:2]} == {"500.wav", "2000.wav"}
    assert found[0].score == pytest.approx(found[1].score, abs=1e-4)
    assert found[1].score > found[2].score + 0.3
    assert not library.composes
    encoders = FakeEncoders()
    added = encoders.encode_text(["band2000"])[0] + encoders.encode_text(["band500"])[0]
    assert found[0].score == pytest.approx(
        float(encoders.encode_text(["band500"])[0] @ added / np.linalg.norm(added)), abs=1e-3
    )


def test_no_question_is_refused(library: Library):
    with pytest.raises(QueryError, match="words, a sound, or both"):
        library.search()


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


def test_one_indexes_at_a_time_and_all_search(library: Library, tmp_path: Path, sounds: Path):
    told: list[str] = []
    asked: list[object] = []
    with Library(tmp_path / "library", encoders=FakeEncoders()) as second:

        def meanwhile(_: object) -> None:
            if asked:
                return
            asked.append(second.search("band500")[0].path)
            asked.append(second.search("band63"))
            asked.append(second.status().files)
            asked.append(second.check()["memory"])
            with pytest.raises(LibraryBusyError, match=r"held by process \d+ on .*, indexing since 20"):
                second.index([sounds], wait_s=0.6, on_wait=told.append)

        library.index([sounds], on_progress=meanwhile)
        assert asked == [str(sounds / "500.wav"), [], 3, "9 windows, while it may be written to"]
        assert len(told) == 1
        assert "waiting for process" in told[0]
        assert second.index([sounds]).skipped == 3, "the first one does not write any more, and made room"
        assert len(library.search("band500")) == 1, "asking the second from now on"


def test_encode_audio_takes_any_rate(library: Library):
    a = library.encode_audio(tone(1.5, rate_hz=44_100, hz=500), 44_100)
    b = library.encode_audio(tone(1.5, rate_hz=8000, hz=500), 8000)
    assert a.dtype == np.float32
    assert float(a @ b) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda lib: lib.search(), QueryError),
        (lambda lib: lib.search("a", audio="b.wav"), AudioError),
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
    library._ledger.complete("0" * 64, 5, 1.0)
    with pytest.raises(LibraryError, match="14"):
        library.check()


def test_closing_twice_is_fine(library: Library):
    library.close()
    library.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda lib: lib.index(["."]),
        lambda lib: lib.search("band500"),
        lambda lib: lib.encode_text(["band500"]),
        lambda lib: lib.encode_audio(np.zeros(8000, np.float32), 8000),
        lambda lib: lib.status(),
        lambda lib: lib.failed(),
        lambda lib: lib.check(),
        lambda lib: lib.space_id,
        lambda lib: lib.calibrated("rain"),
    ],
)
def test_a_closed_library_says_so(library: Library, call):
    library.close()
    with pytest.raises(LibraryError, match="closed"):
        call(library)


def test_results_are_bounded(library: Library):
    assert len(library.search("band500", k=MOST_RESULTS)) == 1
    with pytest.raises(QueryError, match="10000"):
        library.search("band500", k=MOST_RESULTS + 1)


def test_index_waits_for_its_turn(library: Library, tmp_path: Path, sounds: Path):
    """A search that is open for a moment must not make a nightly index fail, not even one that answers nobody."""
    library.close()
    lock = LibraryLock.take(tmp_path / "library")
    assert lock
    with Library(tmp_path / "library", encoders=FakeEncoders()) as second:
        turn = threading.Timer(0.3, lock.release)
        turn.start()
        assert second.index([sounds]).skipped == 3
        turn.join()


def test_of_two_first_uses_the_first_space_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The second looked for a space, and found none, before the first wrote its own."""
    with Library(tmp_path / "library", encoders=FakeEncoders()) as first:
        ours = first.space_id
        setting, early = Ledger.setting, iter((True,))
        late = lambda ledger, key: None if next(early, False) else setting(ledger, key)  # noqa: E731
        monkeypatch.setattr(Ledger, "setting", late)
        with pytest.raises(SpaceMismatchError, match="other@"):
            Library(tmp_path / "library", encoders=FakeEncoders("other"))
        assert first.space_id == ours


def test_a_query_that_cannot_be_read_is_named(library: Library, tmp_path: Path):
    (tmp_path / "text.wav").write_text("no sound")
    for name in ("missing.wav", "text.wav"):
        with pytest.raises(AudioError, match=name):
            library.search(audio=tmp_path / name)


def test_status_rounds_seconds(library: Library):
    library._ledger.complete("0" * 64, 5, 1.23456)
    assert library.status().to_dict()["audio_s"] == 7.235


def test_a_copy_stands_in_for_a_file_that_has_gone(library: Library, sounds: Path, tmp_path: Path):
    shutil.copy(sounds / "500.wav", sounds / "500 copy.wav")
    library.index([sounds])
    [moment] = library.search("band500")
    Path(moment.path).unlink()
    cut = save_clips([moment], tmp_path / "cuts")
    assert (len(cut.saved), cut.failed) == (1, [])
    Path(moment.paths[1]).unlink()
    cut = save_clips([moment], tmp_path / "cuts")
    assert cut.saved == []
    assert [path for path, _ in cut.failed] == [moment.path]


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_long_moments_are_cut_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str):
    path = write_sound(tmp_path / f"long.{suffix}", noise(5.0, rate_hz=44_100), rate_hz=44_100)
    moment = Moment(str(path), (str(path),), 0.7, 4.3, 1.0, 1.0, 5.0)
    [whole] = save_clips([moment], tmp_path / "whole").saved
    monkeypatch.setattr("earshot.clips.PIECE_S", 0.51)
    [pieces] = save_clips([moment], tmp_path / "pieces").saved
    assert pieces.read_bytes() == whole.read_bytes()
    assert soundfile.info(pieces).frames == round(3.6 * 44_100)


def test_a_cut_that_breaks_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_sound(tmp_path / "sound.wav", noise(2.0))
    moment = Moment(str(path), (str(path),), 0.0, 2.0, 1.0, 1.0, 2.0)

    def breaks(path: Path, start_s: float, end_s: float):
        if start_s:
            raise AudioError("a broken file")
        return read_stretch(path, start_s, end_s)

    monkeypatch.setattr("earshot.clips.PIECE_S", 1.0)
    monkeypatch.setattr("earshot.clips.read_stretch", breaks)
    assert save_clips([moment], tmp_path / "cuts").failed == [(str(path), "a broken file")]
    assert list((tmp_path / "cuts").iterdir()) == []


def test_it_says_for_which_questions_relevance_was_fitted(tmp_path: Path):
    encoders = FakeEncoders()
    encoders.calibration = {**encoders.calibration, "audio": Calibration(10.0, -3.0, 0.0)}
    with Library(tmp_path / "library", encoders=encoders) as library:
        assert library.calibrated("rain")
        assert not library.calibrated(None, "rain.wav")
        assert library.calibrated("louder", "rain.wav") == library.composes
