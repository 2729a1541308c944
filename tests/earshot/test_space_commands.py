"""`earshot index --bundle OTHER`, `library rollback` and `library forget-old` as typed, on the shipped model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from earshot.commands import app
from tests.sounds import noise, tone, write_sound

STARTER = Path(__file__).parents[2] / "engine" / "starter"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sounds, and a bundle that hears as the starter does, yet says that its space is another."""
    monkeypatch.setenv("EARSHOT_LIBRARY", str(tmp_path / "lib"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    write_sound(tmp_path / "sounds" / "hiss.wav", noise(3.0))
    write_sound(tmp_path / "sounds" / "beep.wav", tone(3.0, hz=1000))
    shutil.copytree(STARTER, tmp_path / "other")
    manifest = tmp_path / "other" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("starter@", "other@"), encoding="utf-8")
    return tmp_path


def run(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout


def told(*arguments: object, status: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", status=status))


def test_another_bundle_and_back(place: Path):
    run("index", place / "sounds")
    assert "starter@" in told("status")["space_id"]
    said = run("index", "--bundle", place / "other")
    assert "2 indexed" in said
    assert "other@" in said
    assert "earshot library rollback" in said
    state = told("status")
    assert state["space_id"].startswith("other@")
    assert state["previous"].startswith("starter@")
    assert len(told("search", "a beep", "--min-relevance", 0)) == 2
    back = told("library", "rollback")
    assert back["space_id"].startswith("starter@")
    assert len(told("search", "a beep", "--min-relevance", 0)) == 2
    again = told("index", "--bundle", place / "other", place / "sounds")
    assert (again["indexed"], again["reindexed"]["switched"]) == (0, True)
    [gone] = told("library", "forget-old")["removed"]
    assert gone.startswith("starter@")
    assert "nothing to remove" in run("library", "forget-old")


def test_what_is_gone_is_named_and_a_disk_that_is_away_refuses(place: Path):
    run("index", place / "sounds")
    (place / "sounds" / "hiss.wav").unlink()
    report = told("index", "--bundle", place / "other")
    assert [Path(path).name for path in report["reindexed"]["gone"]] == ["hiss.wav"]
    assert report["reindexed"]["switched"]
    run("library", "forget-old")  # which has heard both
    (place / "sounds" / "beep.wav").rename(place / "beep.wav")
    report = told("index", "--bundle", "starter", status=1)
    assert not report["reindexed"]["switched"]
    assert "not switched" in report["refused"]
    assert told("status")["filling"].startswith("starter@")
    (place / "beep.wav").rename(place / "sounds" / "beep.wav")
    assert told("index", "--bundle", "starter")["reindexed"]["switched"]


def test_without_paths_there_must_be_something_to_hear_anew(place: Path):
    run("index", status=2)
    run("index", "--bundle", place / "other", status=2)  # no library yet: nothing is known
    assert not (place / "lib").exists()
