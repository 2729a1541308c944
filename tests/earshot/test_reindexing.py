"""A library heard anew with another bundle: it answers all the while, is switched in one step, and can go back."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import earshot.library
from earshot import Library, spaces
from earshot.reindexing import Reindexing
from earshot.spaces import FolderSpaces, Room
from engine.errors import (
    BundleError,
    LibraryBusyError,
    LibraryError,
    MemoryStoreError,
    QueryError,
    SpaceMismatchError,
)
from engine.fakes import FakeEncoders
from engine.memory.captions import GENERATED, Said
from engine.memory.edge import EdgeMemory
from indexer.ledger import Ledger
from tests.sounds import tone, write_sound

HZ = (125, 250, 500, 1000, 2000)
A, B, C = (f"{name}@000000000000" for name in "abc")


@pytest.fixture(autouse=True)
def bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles by name: each a model of its own space; ``b`` hears in shorter steps."""
    monkeypatch.setattr(earshot.library, "load_encoders", lambda name, _: towers(str(name)))
    monkeypatch.setattr(earshot.library, "bundle_key", str)


def towers(name: str) -> FakeEncoders:
    return FakeEncoders(name, dim=192 if name == "b" else 256, hop_s=0.25 if name == "b" else 0.5)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    for hz in HZ:
        sound(tmp_path / "sounds", hz)
    return tmp_path / "sounds"


def sound(folder: Path, hz: int, name: str = "") -> Path:
    return write_sound(folder / f"{name or hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000)


@pytest.fixture
def library(tmp_path: Path, sounds: Path) -> Iterator[Library]:
    with Library(tmp_path / "library", bundle="a") as made:
        made.index([sounds])
    with Library(tmp_path / "library") as library:
        yield library


def names(library: Library, words: str = "band500", **how: object) -> list[str]:
    return sorted(Path(moment.path).name for moment in library.search(words, **how))


def is_whole(library: Library, space: str, files: int = len(HZ)) -> None:
    """Everything is found in this space, the ledger and the memory agree, and nothing else is in the way."""
    status = library.status()
    assert (status.space_id, status.files, status.filling) == (space, files, "")
    assert names(library) == ["500.wav"]
    assert len(library.search("band500", k=100, min_relevance=0)) == files
    assert library.check()["memory"].startswith(f"{status.windows} windows, ")
    known = EdgeMemory(library.folder / "memory" / "sounds").known_space()
    assert known
    assert known[0] == space
    assert len(list((library.folder / "memory" / "sounds").glob("*.shard"))) == 1


def test_it_answers_with_the_new_bundle_and_keeps_the_space_before(library: Library):
    said: list[str] = []
    report = library.reindex("b", say=said.append)
    assert (report.switched, report.index.indexed, report.gone) == (True, len(HZ), [])
    assert (report.previous, report.space_id) == (A, B)
    assert "MiB more on disk" in said[0]
    is_whole(library, B)
    assert library.status().previous == A
    assert library.status().windows == len(HZ) * 5
    with Library(library.folder) as again:  # the bundle is remembered
        is_whole(again, B)
    with pytest.raises(SpaceMismatchError, match=f"{B}.*{A}"):
        Library(library.folder, bundle="a")


def test_rollback_goes_back_and_forth(library: Library, sounds: Path):
    windows = library.status().windows
    library.reindex("b")
    sound(sounds, 60, "later")
    library.index([sounds])
    assert library.rollback() == A
    is_whole(library, A)
    assert (library.status().windows, library.status().previous) == (windows, B)
    library.index([sounds])  # what has come since is heard in this space, too
    assert names(library, "band63") == ["later.wav"]
    assert library.rollback() == B
    is_whole(library, B, len(HZ) + 1)


def test_a_bundle_that_is_gone_or_another_by_now_is_not_gone_back_to(library: Library, monkeypatch: pytest.MonkeyPatch):
    library.remember(["band500 hums"])
    library.reindex("b")

    def gone(name: object, _: object) -> FakeEncoders:
        if name == "a":
            raise BundleError("no bundle 'a'", "one", "see `earshot bundle list`")
        return towers(str(name))

    for opened, words in ((gone, f"no bundle 'a', which heard {A}"), (lambda *_: towers("c"), f"{C} where.*{A}")):
        with monkeypatch.context() as patched:
            patched.setattr(earshot.library, "load_encoders", opened)
            with pytest.raises(BundleError, match=words):
                library.rollback()
            assert library.status().previous == A
        is_whole(library, B)
    assert library.rollback() == A
    is_whole(library, A)


def test_a_tower_of_words_that_is_gone_matters_where_captions_are_remembered(
    library: Library, monkeypatch: pytest.MonkeyPatch
):
    library.remember(["band500 hums"])
    library.reindex("b")
    deaf = towers("a")
    monkeypatch.setattr(FakeEncoders, "text", property(lambda one: broken(one) if one is deaf else one))
    with pytest.raises(BundleError, match=f"damaged, which heard {A}"):
        library.rollback(encoders=deaf)
    is_whole(library, B)
    library.forget()
    assert library.rollback(encoders=deaf) == A


def broken(_: object) -> FakeEncoders:
    raise BundleError("text.onnx, damaged", "a whole one", "export it again")


def test_without_a_space_before_there_is_nowhere_to_go(library: Library):
    with pytest.raises(LibraryError, match="no space before a@"):
        library.rollback()
    library.reindex("b")
    assert library.forget_previous() == [A]
    assert library.status().previous == ""
    assert list(FolderSpaces(library.folder).others()) == []
    with pytest.raises(LibraryError, match="no space before b@"):
        library.rollback()
    is_whole(library, B)


def test_a_second_time_removes_what_the_first_left(library: Library):
    library.reindex("b")
    library.reindex("c")
    is_whole(library, C)
    assert library.status().previous == B
    assert list(FolderSpaces(library.folder).others()) == [B]


def test_back_to_the_space_before_only_hears_what_is_new(library: Library, sounds: Path):
    library.reindex("b")
    sound(sounds, 60, "later")
    report = library.reindex("a", [sounds])
    assert (report.index.indexed, report.index.skipped) == (1, len(HZ))
    is_whole(library, A, len(HZ) + 1)
    assert library.status().previous == B


def test_the_same_space_again_is_refused(library: Library):
    with pytest.raises(LibraryError, match="answers already"):
        library.reindex("a")
    is_whole(library, A)


def test_a_library_without_sounds_has_nothing_to_hear(tmp_path: Path):
    with Library(tmp_path / "empty", bundle="a") as library, pytest.raises(LibraryError, match="nothing heard"):
        library.reindex("b")


def test_others_search_and_index_meanwhile(library: Library, sounds: Path, monkeypatch: pytest.MonkeyPatch):
    """At the moment before the last look another process searches, adds a file, and forgets one."""
    look = Reindexing._hear
    looks = []

    def between(work: Reindexing, *args: object) -> object:
        looks.append(work)
        report = look(work, *args)  # type: ignore[arg-type]
        if len(looks) == 1:
            with Library(library.folder) as other:
                assert (other.status().space_id, other.status().filling) == (A, B)
                assert names(other) == ["500.wav"]
                sound(sounds, 60, "later")
                (sounds / "125.wav").unlink()
                shutil.move(sounds / "250.wav", sounds / "moved.wav")
                assert other.index([sounds], prune=True).pruned == 1
                assert names(other, "band63") == ["later.wav"]
        return report

    monkeypatch.setattr(Reindexing, "_hear", between)
    report = library.reindex("b")
    assert (report.switched, report.gone, len(looks)) == (True, [], 2)
    is_whole(library, B, len(HZ))
    assert names(library, "band63") == ["later.wav"]
    assert names(library, "band250") == ["moved.wav"]
    assert names(library, "band125") == []


def test_a_reader_follows_and_one_that_named_its_bundle_is_told(library: Library):
    with Library(library.folder) as follower, Library(library.folder, bundle="a") as pinned:
        assert names(follower) == names(pinned) == ["500.wav"]
        library.reindex("b")
        assert names(follower) == ["500.wav"]
        assert follower.encode_text(["band500"]).shape == (1, 192)
        with pytest.raises(SpaceMismatchError):
            pinned.search("band500")


def test_searches_never_fail_while_it_is_heard_anew(library: Library):
    """Two that search all the time, each with a library of its own: as guest, as holder, and across the switch."""
    done, wrong, found = threading.Event(), [], []

    def ask() -> None:
        with Library(library.folder) as other:
            while not done.wait(0.01):
                try:
                    found.append(names(other))
                except Exception as error:  # noqa: BLE001 - told below
                    wrong.append(error)

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        assert library.reindex("b").switched
        library.rollback()
        assert library.reindex("c").switched
    finally:
        done.set()
        for asker in askers:
            asker.join()
    assert wrong == []
    assert found
    assert all(answer == ["500.wav"] for answer in found)
    is_whole(library, C)


def test_files_that_are_gone_stay_with_the_space_before(library: Library, sounds: Path):
    (sounds / "125.wav").unlink()
    report = library.reindex("b")
    assert report.switched
    assert [Path(path).name for path in report.gone] == ["125.wav"]
    is_whole(library, B, len(HZ) - 1)
    library.rollback()
    assert names(library, "band125") == ["125.wav"]


def test_captions_are_said_again_in_the_new_space(library: Library):
    library.remember(["band500 hums", "band125 rumbles"], source="me")
    library.remember([Said("band2000 beeps", source=GENERATED)])
    library.reindex("b")
    [nearest, other] = library.recalled(library.encode_text(["band125"])[0], 3)
    assert (nearest.text, nearest.source, len(nearest.vector)) == ("band125 rumbles", "me", 192)
    assert other.text == "band500 hums"
    assert library.remembers() == 3
    library.rollback()
    assert [found.text for found in library.recalled(library.encode_text(["band500"])[0], 1)] == ["band500 hums"]


def test_captions_that_a_kill_left_in_the_old_space_are_said_again(library: Library, monkeypatch: pytest.MonkeyPatch):
    library.remember(["band500 hums", "band125 rumbles"])
    with monkeypatch.context() as patched:
        patched.setattr(EdgeMemory, "take", lambda *_: (_ for _ in ()).throw(SystemExit(9)))
        with pytest.raises(SystemExit):
            library.reindex("b")
    library.close()
    with Library(library.folder) as opened:
        with pytest.raises(SpaceMismatchError, match=f"{A}.*{B}.*earshot remember"):  # none in this space yet
            opened.recalled(opened.encode_text(["band500"])[0], 1)
        opened.remember(["band250 sings"])
        assert opened.remembers() == 3
        assert opened.recalled(opened.encode_text(["band500"])[0], 1)[0].text == "band500 hums"


@pytest.fixture
def captioned(library: Library, sounds: Path) -> Library:
    """Two of its five sounds have captions, of some of those remembered."""
    library.remember([f"band{hz}" for hz in HZ], lang="fra")
    library.index([sounds / "125.wav", sounds / "500.wav"], caption=True, caption_lang="fra")
    assert said(library) == {"125.wav": ("band125",), "500.wav": ("band500",)}
    return library


def said(library: Library) -> dict[str, tuple[str, ...]]:
    return {Path(sound.paths[0]).name: sound.captions for sound in library.captions()}


def test_what_was_captioned_is_captioned_in_the_new_space_in_its_language(captioned: Library):
    told: list[str] = []
    report = captioned.reindex("b", say=told.append)
    assert (report.index.captioned, report.uncaptioned, report.reason) == (2, 0, None)
    assert told[-1] == "captioning 2 sounds anew"
    assert report.to_dict()["reindexed"]["uncaptioned"] == 0
    assert said(captioned) == {"125.wav": ("band125",), "500.wav": ("band500",)}
    moments = [run for sound in captioned.captions() for run in sound.moments]
    assert {run.by.partition("#")[0] for run in moments} == {"b-nearest"}
    assert {run.language for run in moments} == {"fra"}
    assert captioned.remembers(source=GENERATED) == 2
    captioned.rollback()
    assert {run.by.partition("#")[0] for sound in captioned.captions() for run in sound.moments} == {"a-nearest"}


def test_all_is_captioned_in_the_new_space_where_that_is_asked_for(captioned: Library):
    report = captioned.reindex("b", caption=True)
    assert (report.index.captioned, report.uncaptioned) == (5, 0)
    assert said(captioned) == {f"{hz}.wav": (f"band{hz}",) for hz in HZ}


def test_where_the_new_bundle_can_not_caption_it_says_so(captioned: Library):
    captioned.forget()
    with pytest.raises(QueryError, match="no captions remembered"):  # asked for: before anything is heard
        captioned.reindex("b", caption=True)
    report = captioned.reindex("b")
    assert (report.switched, report.index.captioned, report.uncaptioned) == (True, 0, 2)
    assert "earshot remember" in str(report.reason)
    assert said(captioned) == {}
    captioned.remember([f"band{hz}" for hz in HZ])
    assert captioned.index([], caption=True).captioned == 5
    assert said(captioned) == {f"{hz}.wav": (f"band{hz}",) for hz in HZ}


def test_captions_that_a_kill_left_undone_are_made_by_the_next_run(captioned: Library, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("engine.retrieval_captioner.RetrievalCaptioner.caption", broken)
        patched.setattr("engine.retrieval_captioner.RetrievalCaptioner.caption_events", broken)
        with pytest.raises(RuntimeError, match="killed"):
            captioned.reindex("b")
    is_whole(captioned, B)
    assert said(captioned) == {}
    captioned.index([], caption=True)
    assert len(said(captioned)) == 5
    assert captioned.remembers(source=GENERATED) == 5


def test_a_disk_that_is_away_does_not_empty_the_library(library: Library, sounds: Path):
    for hz in HZ[:2]:
        (sounds / f"{hz}.wav").rename(sounds.parent / f"{hz}.wav")
    report = library.reindex("b")
    assert not report.switched
    assert "not switched: found 2 of 5 known files gone" in str(report.index.refused)
    is_whole_but_filling(library)
    for hz in HZ[:2]:
        (sounds.parent / f"{hz}.wav").rename(sounds / f"{hz}.wav")
    assert library.reindex("b").switched
    is_whole(library, B)


def is_whole_but_filling(library: Library) -> None:
    assert (library.status().space_id, library.status().filling) == (A, B)
    assert names(library) == ["500.wav"]


def test_it_switches_all_the_same_where_that_is_wanted(library: Library, sounds: Path):
    for hz in HZ[:2]:
        (sounds / f"{hz}.wav").unlink()
    report = library.reindex("b", even_if_gone=True)
    assert (report.switched, len(report.gone)) == (True, 2)
    is_whole(library, B, 3)


def test_what_a_killed_first_try_of_a_third_bundle_left_is_removed(library: Library, sounds: Path):
    shutil.rmtree(sounds)
    assert not library.reindex("b").switched
    for hz in HZ:
        sound(sounds, hz)
    said: list[str] = []
    assert library.reindex("c", say=said.append).switched
    assert said[0] == f"removing {B}, which was never finished"
    assert list(FolderSpaces(library.folder).others()) == [A]


def test_without_room_nothing_is_begun(library: Library, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FolderSpaces, "room", lambda _: Room(free=1000, used=0))
    with pytest.raises(MemoryStoreError, match=r"0 MiB free.*at least 1 MiB, for two spaces"):
        library.reindex("b")
    assert names(library) == ["500.wav"]


def test_two_at_once_are_refused(library: Library):
    with FolderSpaces(library.folder).filling(towers("b").space, 0, lambda _: None):
        with Library(library.folder) as other, pytest.raises(LibraryBusyError, match="being filled"):
            other.reindex("b", wait_s=0)
        with pytest.raises(LibraryBusyError, match="being filled"):
            library.forget_previous()


KILLED = """
import os, sys
from pathlib import Path
import earshot.library
from earshot import Library, spaces
from engine.fakes import FakeEncoders
from indexer import writer
from indexer.ledger import Ledger

at = sys.argv[2]
def end(*_): os._exit(9)
def ends_after(owner, name, times=1):
    done, left = getattr(owner, name), [times]
    def once(*args):
        value = done(*args)
        left[0] -= 1
        if not left[0]: end()
        return value
    setattr(owner, name, once)

writer.SAVE_POINTS = 6
towers = FakeEncoders("b", dim=192, hop_s=0.25)
if at == "third save": ends_after(writer.Writer, "save", 3)
if at == "left": ends_after(spaces.FolderSpaces, "leave")
if at == "committed": ends_after(Ledger, "become")
if at == "moved one": ends_after(spaces, "_move", 1)
with Library(sys.argv[1], encoders=FakeEncoders("a", dim=256)) as library:
    library.reindex(encoders=towers, jobs=1)
    library.search("band500")
"""


@pytest.mark.parametrize("at", ["third save", "left", "committed", "moved one"])
def test_killed_at_any_step_it_answers_and_goes_on(library: Library, at: str):
    library.close()
    command = [sys.executable, "-c", KILLED, str(library.folder), at]
    assert subprocess.run(command, capture_output=True).returncode == 9
    is_switched = at in ("committed", "moved one")
    with Library(library.folder, encoders=towers("b" if is_switched else "a")) as opened:
        if is_switched:
            is_whole(opened, B)
            assert opened.status().previous == A
        else:
            assert opened.status().space_id == A
            assert names(opened) == ["500.wav"]
            report = opened.reindex(encoders=towers("b"))
            assert report.switched
            is_whole(opened, B)
    with Library(library.folder, encoders=towers("b")) as opened:
        opened.rollback()
    with Library(library.folder, encoders=towers("a")) as opened:
        is_whole(opened, A)


def stopped_after(patched: pytest.MonkeyPatch, owner: object, name: str, times: int = 1) -> None:
    """As a kill there would leave it: these steps have nothing to tidy up."""
    done, left = getattr(owner, name), [times]

    def once(*args: object) -> object:
        value = done(*args)
        left[0] -= 1
        if not left[0]:
            raise SystemExit(9)
        return value

    patched.setattr(owner, name, once)


def test_a_rollback_that_is_killed_is_done_or_not(library: Library, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patched:
        stopped_after(patched, spaces, "_move", 2)  # after that only an empty folder is left to be removed
        with pytest.raises(SystemExit):
            library.reindex("b")
    library.close()
    with Library(library.folder) as opened:
        is_whole(opened, B)
        with monkeypatch.context() as patched:
            stopped_after(patched, Ledger, "become")
            with pytest.raises(SystemExit):
                opened.rollback()
    with Library(library.folder) as opened:
        is_whole(opened, A)
        assert opened.status().previous == B
