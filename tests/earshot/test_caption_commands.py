"""Captions remembered and forgotten on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from earshot import library as library_module
from earshot import models
from earshot.caption_commands import _confirm
from earshot.commands import app
from engine.errors import EarshotError, QueryError, SpaceMismatchError
from engine.fakes import FakeEncoders
from tests.sounds import tone, write_sound


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library_module, "load_encoders", lambda bundle, device: FakeEncoders())
    monkeypatch.setenv("EARSHOT_LIBRARY", str(tmp_path / "library"))

    def run(*words: str, status: int = 0, typed: str = "") -> str:
        result = CliRunner().invoke(app, list(words), input=typed)
        assert result.exit_code == status, (result.output, result.exception)
        assert isinstance(result.exception, EarshotError | SystemExit | None), result.exception  # no mere crash
        return result.stdout

    return run


def test_remember_count_and_forget(run, tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"a dog\n\nthe sea\ncaf\xe9\n")
    report = json.loads(run("remember", str(tmp_path / "a.txt"), "--lang", "eng", "--source", "me", "--json", status=3))
    assert (report["remembered"], report["known"], report["failed"]) == (2, 0, 1)
    assert report["reasons"][0]["where"].endswith("a.txt, line 4")
    (tmp_path / "b.txt").write_text("rain")
    assert "1 caption remembered" in run("remember", str(tmp_path / "b.txt"), "--source", "rain")
    assert run("forget", "--source", "rain").strip() == "1 caption forgotten"
    assert "2 known already" in run("remember", str(tmp_path / "a.txt"), "--lang", "eng", status=3)
    assert json.loads(run("status", "--json"))["captions"] == 2
    run("forget", status=1, typed="n\n")
    assert json.loads(run("forget", "--source", "nobody", "--json")) == {"forgotten": 0}
    assert json.loads(run("forget", "--yes", "--json")) == {"forgotten": 2}


@pytest.mark.parametrize("words", [[], ["--json"]])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_with_nothing_in_it_is_told(run, tmp_path: Path, words: list[str], content: str):
    (tmp_path / "nothing.txt").write_text(content)
    (tmp_path / "a.txt").write_text("a dog\n")
    run("remember", str(tmp_path / "a.txt"))
    found = CliRunner().invoke(app, ["remember", str(tmp_path / "nothing.txt"), str(tmp_path / "a.txt"), *words])
    assert found.exit_code == 0
    assert f"no caption in {tmp_path / 'nothing.txt'}" in found.stderr
    assert "a.txt" not in found.stderr  # known already, but not nothing


def test_where_nobody_can_answer_forgetting_all_names_the_option(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text("a dog\n")
    run("remember", str(tmp_path / "a.txt"))
    found = CliRunner().invoke(app, ["forget"], input="")
    assert (found.exit_code, "--yes" in str(found.exception)) == (1, True)
    monkeypatch.setattr("earshot.caption_commands.sys", SimpleNamespace(stdin=None))
    with pytest.raises(QueryError, match="--yes"):
        _confirm(1)
    assert json.loads(run("status", "--json"))["captions"] == 1


def test_a_language_without_meaning_is_refused_everywhere(run, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a dog\n")
    write_sound(tmp_path / "a.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    run("remember", str(tmp_path / "a.txt"), "--lang", "eng")
    run("forget", "--lang", "xx1", status=1)
    run("caption", str(tmp_path / "a.wav"), "--lang", "english", status=1)
    run("caption", str(tmp_path / "a.wav"), "--lang", "zzz", status=1)  # of which nothing is remembered
    run("train", "captioner", str(tmp_path / "a.txt"), "--out", str(tmp_path / "new"), "--lang", "en", status=1)
    run("eval", "captions", str(tmp_path / "a.txt"), "--refs", str(tmp_path), "--lang", "en", status=1)
    assert json.loads(run("status", "--json"))["captions"] == 1


def test_options_that_exclude_each_other_are_refused(run, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a dog\n")
    write_sound(tmp_path / "a.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    run("remember", str(tmp_path / "a.txt"), "--lang", "eng")
    sound = str(tmp_path / "a.wav")
    run("caption", sound, "--json", "--srt", status=1)
    run("index", sound, "--lang", "eng", status=1)  # of nothing
    run("caption", sound, "--beams", "7", status=1)  # a bundle without a decoder follows no sentences
    run("caption", sound, "--strategy", "audio", status=1)
    assert json.loads(run("caption", sound, "--json", "--lang", "eng"))[0]["moments"][0]["caption"] == "a dog"


def test_a_bundle_of_another_space_of_as_many_numbers_is_refused(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_text("band500\n")
    sound = str(write_sound(tmp_path / "a.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000))
    run("index", sound)
    run("remember", str(tmp_path / "a.txt"), "--lang", "eng")
    monkeypatch.setattr(library_module, "load_encoders", lambda bundle, device: FakeEncoders(str(bundle)))
    for words in (["caption", sound], ["remember", str(tmp_path / "a.txt")]):
        result = CliRunner().invoke(app, [*words, "--bundle", "other"])
        assert result.exit_code == 1
        assert isinstance(result.exception, SpaceMismatchError)
        assert "fake@000000000000" in str(result.exception)
        assert "other@000000000000" in str(result.exception)


def test_what_can_not_be_done_is_said_before_a_library_is_made(run, tmp_path: Path):
    (tmp_path / "a.txt").write_text("a dog")
    for words in (["nowhere.txt"], [str(tmp_path)], [str(tmp_path / "a.txt"), "--lang", "english"]):
        run("remember", *words, status=1)
    run("remember", str(tmp_path / "a.txt"), "--source", "generated", status=1)
    assert not (tmp_path / "library").exists()


def test_index_that_can_not_caption_leaves_no_library_behind(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "load_encoders", lambda bundle, device: FakeEncoders())
    sound = write_sound(tmp_path / "a.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    for words in (["--caption"], ["--caption-again"], ["--caption", "--lang", "english"]):
        run("index", str(sound), *words, status=1)
        assert not (tmp_path / "library").exists()
    run("index", "--caption", status=2)  # nothing to caption, and nothing to hear
    run("index", str(sound))
    (tmp_path / "a.txt").write_text("band500\n")
    run("remember", str(tmp_path / "a.txt"))
    run("index", "--caption", "--prune", status=2)
    assert json.loads(run("index", "--caption", "--json"))["captioned"] == 1
    assert json.loads(run("index", "--caption-again", "--json"))["captioned"] == 0  # it would say the same
    (tmp_path / "b.txt").write_text("band500 again\n")
    run("remember", str(tmp_path / "b.txt"))
    assert json.loads(run("index", str(sound), "--caption-again", "--json"))["captioned"] == 1
    [moment] = json.loads(run("search", "band500", "--json"))
    assert moment["caption_by"].startswith("fake-nearest#")
    assert f",{moment['caption_by']}\n" in run("export", "captions")


def test_where_nothing_is_remembered_no_caption_is_made(run, tmp_path: Path):
    """A bundle without captions or decoder: refused, with what to do; what was indexed stays."""
    write_sound(tmp_path / "a.wav", tone(2.0, rate_hz=8000, hz=500), rate_hz=8000)
    sound = str(tmp_path / "a.wav")
    run("index", sound)
    for words in (["caption", sound], ["index", sound, "--caption"], ["index", sound, "--caption-again"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1
        assert isinstance(result.exception, EarshotError)
        assert "no captions remembered" in str(result.exception)
        assert "earshot remember" in str(result.exception)
    assert json.loads(run("status", "--json"))["files"] == 1
