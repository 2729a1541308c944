"""`earshot train finetune` on the command line, as far as it goes without torch; the rest is in the guide."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from earshot.commands import app
from engine.errors import EarshotError
from trainer.settings import Settings

COMMAND = ("train", "finetune", "--out", "run")


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*COMMAND, *arguments])
    assert isinstance(result.exception, EarshotError)
    return str(result.exception)


def test_what_cannot_be_run_is_said_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "trainer.finetune", None)
    assert "give --data" in refused()
    assert "--unlabelled" in refused("--data", "x.jsonl", "--method", "composed")
    config = tmp_path / "run.toml"
    config.write_text('data = "x.jsonl"\nepoch = 3\n')
    assert "perhaps epochs?" in refused("--config", str(config))
    assert "pip install 'earshot[train]'" in refused("--data", "x.jsonl")


def test_help_tells_the_whole_story_by_commands_that_there_are():
    told = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    story = re.findall(r"^ *earshot (.*?) *$", told, re.MULTILINE)
    assert [line.split(" -")[0] for line in story] == [
        "train check sounds.csv",
        "train finetune",
        "bundle export run",
        "eval starter mine",
        "index ~/Sounds",
        "search",
        "library rollback",
    ]
    for line in story:
        command, words = typer.main.get_command(app), shlex.split(line)
        while name := words[0] if words[:1] and words[0] in getattr(command, "commands", {}) else "":
            command, words = command.commands[name], words[1:]
        command = getattr(command, "commands", {}).get("bundle", command)  # `eval BUNDLE` is short for it
        known = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known, line
    assert told.index(" check  ") < told.index(" finetune  ") < told.index(" captioner  ")
    assert "pip install 'earshot[train]'" in told


def test_help_tells_a_run_with_the_defaults_that_hold():
    told = CliRunner().invoke(app, ["train", "finetune", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    for name in Settings.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in told
    for text in ("[default: 5e-05]", "[default: audio,text,a2t]", "bundle export", "earshot eval", "earshot index"):
        assert text in told


def test_the_reference_tells_the_defaults_that_hold():
    reference = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    section = reference.partition("## `earshot train finetune`")[2].partition("\n## ")[0]
    rows = {row.split("`")[1]: row for row in section.splitlines() if row.startswith("| `--")}
    for name, default in Settings(data="").to_dict().items():
        if default in ("", None, False, []):
            continue
        text = ",".join(default) if isinstance(default, list) else str(default)
        shown = f"{default:g}" if isinstance(default, float) else text
        assert re.search(rf"[` ]{re.escape(shown)}[`.,; ]", rows[f"--{name.replace('_', '-')}"]), name
