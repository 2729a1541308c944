"""`earshot eval` from the command line: what it prints, saves, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import earshot.models
from earshot.commands import app
from engine.fakes import FakeEncoders
from tests.sounds import tone, write_sound


@pytest.fixture(autouse=True)
def bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earshot.models, "load_encoders", lambda name, _: FakeEncoders(name, dim=64))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = []
    for hz in (125, 500, 2000):
        write_sound(tmp_path / f"{hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000)
        rows.append({"audio": f"{hz}.wav", "captions": [f"band{hz}"], "tags": [f"band{hz}"], "split": "test"})
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_tells_figures_and_protocol(data: Path):
    status, said, _ = run("eval", "one", "--data", data)
    assert status == 0
    assert "text-to-audio R@1" in said
    assert "1.000 (1.000" in said
    assert "ties: against the bundle" in said


@pytest.mark.parametrize("words", [("eval",), ("eval", "bundle")])
def test_json_alone_on_stdout_and_files_where_wanted(data: Path, tmp_path: Path, words: tuple[str, ...]):
    status, said, _ = run(*words, "one", "two", "--data", data, "--json", "--out", tmp_path / "out")
    assert status == 0
    told = json.loads(said)
    assert told["protocol"]["split"] == "test"
    assert list(told["bundles"]) == ["one", "two"]
    assert len(told["differences"]) == len(told["bundles"]["one"])
    assert json.loads((tmp_path / "out" / "eval.json").read_text(encoding="utf-8")) == told


def test_a_bundle_against_itself_differs_in_nothing(data: Path):
    _, said, _ = run("eval", "--data", data, "--json", "one", "one")
    assert {figure["value"] for figure in json.loads(said)["differences"]} == {0.0}


def test_what_cannot_be_heard_is_left_out_and_said(data: Path):
    (data.parent / "500.wav").write_text("no sound")
    status, _, remarks = run("eval", "one", "--data", data)
    assert status == 3
    assert "500.wav" in remarks


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one", "two", "three"], "one bundle, or two"),
        (["one", "--prompt", "a sound"], "expected {}"),
    ],
)
def test_wrong_usage(data: Path, arguments: list[str], words: str):
    status, _, said = run("eval", *arguments, "--data", data)
    assert status == 2
    assert words in said
