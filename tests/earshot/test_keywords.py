"""What is said of sounds, found by its words: `earshot index --caption`, then `earshot search`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from earshot import Library
from earshot import library as library_module
from earshot.commands import app
from engine.errors import QueryError
from engine.fakes import FakeEncoders
from engine.memory.captions import GENERATED
from engine.types import Caption, FloatArray
from tests.sounds import tone, write_sound


class Sayer:
    """Says one thing of a tone near band125, another of all else."""

    def caption(self, vectors: FloatArray) -> list[Caption]:
        low = vectors @ FakeEncoders().encode_text(["band125"])[0] > 0.9
        return [Caption("a ship's horn, far away" if is_low else "a kettle whistles", 0.9, "eng") for is_low in low]


@pytest.fixture
def library(tmp_path: Path):
    for hz in (125, 2000):
        write_sound(tmp_path / "sounds" / f"{hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000, title=f"Take {hz}")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        yield library


def names(moments) -> list[str]:
    return [Path(moment.path).name for moment in moments]


def test_a_sound_is_found_by_the_words_of_its_caption_and_of_its_tags(library: Library, tmp_path: Path):
    library.index([tmp_path / "sounds"], caption=Sayer())
    [found] = library.search("ship's HORN")
    assert (Path(found.path).name, found.by, found.caption) == ("125.wav", "keywords", "a ship's horn, far away")
    assert found.relevance < 0.5  # it need not sound like these words
    assert library.search("ship's horn", by="meaning") == []
    assert library.search("ship's horn", min_relevance=0.9) == []
    assert names(library.search("take 2000")) == ["2000.wav"]
    assert library.search("a horn and a kettle") == []  # none that says all of that
    assert set(names(library.search("a horn and a kettle", by="keywords"))) == {"125.wav", "2000.wav"}
    assert [moment.by for moment in library.search("band125 ship")] == ["meaning"]
    assert names(library.search("horn", filters=["path~2000"])) == []
    for audio in (tmp_path / "sounds" / "125.wav",):
        with pytest.raises(QueryError, match="words alone"):
            library.search("horn", audio=audio, by="keywords")
        with pytest.raises(QueryError, match="words alone"):
            library.search(audio=audio, by="keywords")


def test_what_was_generated_is_found_and_not_projected(library: Library, tmp_path: Path):
    library.remember(["a dog barks"], lang="eng")
    report = library.index([tmp_path / "sounds"], caption=Sayer())
    assert report.captioned == 2
    assert library.remembers(source=GENERATED) == 2
    assert library.text_memory()[1] == ["a dog barks"]
    assert library.index([tmp_path / "sounds"], caption=Sayer()).captioned == 0
    assert library.remembers() == 3


class Betterer:
    """Says other things than ``Sayer``, of the high tone nothing; may fall silent for good."""

    def __init__(self) -> None:
        self.stop_after: int | None = None

    def caption(self, vectors: FloatArray) -> list[Caption]:
        if self.stop_after is not None:
            if self.stop_after == 0:
                raise MemoryError("no more")
            self.stop_after -= 1
        low = vectors @ FakeEncoders().encode_text(["band125"])[0] > 0.9
        return [Caption("a tuba" if is_low else "", 0.9 if is_low else 0.0, "eng") for is_low in low]


def test_captions_are_made_again_when_asked_for_and_the_old_ones_are_forgotten(library: Library, tmp_path: Path):
    sounds = tmp_path / "sounds"
    library.remember(["a kettle whistles"], lang="eng", source="mine")
    library.index([sounds], caption=Sayer())
    assert library.remembers(source=GENERATED) == 2
    assert library.index([sounds], caption=Betterer()).captioned == 0
    report = library.index([sounds / "125.wav"], caption=Betterer(), caption_again=True)
    assert (report.indexed, report.captioned) == (0, 1)
    assert names(library.search("tuba")) == ["125.wav"]
    assert library.search("horn", by="keywords") == []
    assert names(library.search("kettle", by="keywords")) == ["2000.wav"]  # that was not asked for
    assert library.remembers(source=GENERATED) == 2  # the tuba and the kettle, no horn
    assert library.index([sounds], caption=Betterer(), caption_again=True).captioned == 2
    assert library.search("kettle", by="keywords") == []
    assert library.remembers(source=GENERATED) == 1
    assert library.remembers(source="mine") == 1  # what somebody said stays


@pytest.mark.parametrize("everything", [False, True])
def test_forgotten_captions_are_made_again_when_asked_for(library: Library, tmp_path: Path, everything: bool):
    """By the same captioner upon the same memory, too, which has nothing new to say of any sound."""

    class Named(Sayer):
        identity = "sayer#1"

    sounds = tmp_path / "sounds"
    library.remember(["a kettle whistles"], lang="eng", source="mine")
    library.index([sounds], caption=Named())
    assert (library.status().captions, library.status().generated) == (1, 2)
    assert library.forget(source=None if everything else GENERATED) == (3 if everything else 2)
    assert library.status().generated == 0
    assert names(library.search("kettle", by="keywords")) == ["2000.wav"]  # sounds keep their captions
    assert library.index([sounds], caption=Named(), caption_again=True).captioned == 2
    assert (library.remembers(source=GENERATED), library.remembers(source="mine")) == (2, 0 if everything else 1)
    assert library.index([sounds], caption=Named(), caption_again=True).captioned == 0


def test_captions_made_again_go_on_after_a_failure(library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sounds = tmp_path / "sounds"
    monkeypatch.setattr("indexer.captions.CONTENTS_AT_ONCE", 1)
    library.index([sounds], caption=Sayer())
    breaking = Betterer()
    breaking.stop_after = 1
    with pytest.raises(MemoryError):
        library.index([sounds], caption=breaking, caption_again=True)
    assert library.index([sounds], caption=Betterer()).captioned == 1
    assert {sound.captions for sound in library.captions()} == {("a tuba",)}
    assert library.remembers(source=GENERATED) == 1


def test_another_process_finds_words_while_this_one_holds_the_library(library: Library, tmp_path: Path):
    library.index([tmp_path / "sounds"], caption=Sayer())
    library.search("horn")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as second:
        assert names(second.search("horn")) == ["125.wav"]


def test_the_command_line_captions_with_what_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_sound(tmp_path / "sounds" / "low.wav", tone(2.0, rate_hz=8000, hz=125), rate_hz=8000)
    (tmp_path / "captions.txt").write_text("a ship's horn band125\nrain")
    monkeypatch.setattr(library_module, "load_encoders", lambda bundle, device: FakeEncoders())
    monkeypatch.setenv("EARSHOT_LIBRARY", str(tmp_path / "library"))

    def run(*words: str, status: int = 0):
        result = CliRunner().invoke(app, [*words, "--json"])
        assert result.exit_code == status, (result.output, result.exception)
        return json.loads(result.stdout) if status == 0 else result

    run("index", str(tmp_path / "sounds"))
    run("index", str(tmp_path / "sounds"), "--caption", status=1)  # nothing to build captions on
    run("remember", str(tmp_path / "captions.txt"), "--lang", "eng")
    assert run("index", str(tmp_path / "sounds"), "--caption")["captioned"] == 1
    assert run("index", str(tmp_path / "sounds"), "--caption")["captioned"] == 0
    assert run("index", str(tmp_path / "sounds"), "--caption-again")["captioned"] == 0  # it would say the same
    (tmp_path / "captions.txt").write_text("thunder")
    run("remember", str(tmp_path / "captions.txt"), "--lang", "eng")
    assert run("index", str(tmp_path / "sounds"), "--caption")["captioned_otherwise"] == 1
    assert run("index", str(tmp_path / "sounds"), "--caption-again")["captioned"] == 1
    [found] = run("search", "ship horn", "--by", "keywords")
    assert (found["caption"], found["by"]) == ("a ship's horn band125", "keywords")
