"""`earshot eval` from the command line: what it prints, saves, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import earshot.models
from earshot.commands import app
from engine.errors import LibraryError
from engine.fakes import FakeEncoders
from tests.sounds import tone, write_sound
from trainer.classify import Classifying
from trainer.metrics import Floats
from trainer.verdict import Lesson


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


def test_what_the_data_leave_out_is_counted(data: Path):
    with data.open("a", encoding="utf-8") as rows:
        rows.write('\n{"audio": "125.wav", "captions": ["  "], "split": "test"}\n')
        rows.write('{"captions": ["no sound"]}\nnot JSON\n')
    status, said, remarks = run("eval", "one", "--data", data, "--json")
    assert status == 0
    left_out = json.loads(said)["protocol"]["left_out"]
    assert left_out == {"bad JSON": 1, "bad row": 1, "empty caption": 1}
    assert "bad JSON 1, bad row 1, empty caption 1; `earshot train check` names them" in " ".join(remarks.split())


def test_that_what_is_asked_was_to_be_learnt_is_said(data: Path):
    """A table that names no split is all `train`: `eval` asks it, as there is nothing else, but not in silence."""
    assert "learns from" not in run("eval", "one", "--data", data)[2]
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    data.write_text("\n".join(json.dumps({**row, "split": "train"}) for row in rows), encoding="utf-8")
    status, said, remarks = run("eval", "one", "--data", data, "--json")
    assert status == 0
    assert "3 clips asked about, of a split that `earshot train finetune` learns from" in remarks
    assert json.loads(said)["protocol"]["remark_on_the_split"].startswith("3 clips asked")


def test_a_folder_that_cannot_be_written_is_said_before_and_figures_are_told(
    data: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(LibraryError, match="choose another"):
        run("eval", "nobody asks it", "--data", data.parent / "gone.jsonl", "--out", data)

    def full(*_: object) -> None:
        raise LibraryError("no space left", "room", "make room")

    monkeypatch.setattr("trainer.verdict_report.save", full)
    result = CliRunner().invoke(app, ["eval", "one", "--data", str(data), "--out", str(data.parent / "out")])
    assert isinstance(result.exception, LibraryError)
    assert "text-to-audio R@1" in result.stdout


def test_a_probe_never_learns_what_it_is_asked(data: Path):
    """Of two clips on split train one has the very sound of a clip on test: the other alone teaches."""
    (data.parent / "copy.wav").write_bytes((data.parent / "500.wav").read_bytes())
    write_sound(data.parent / "own.wav", tone(2.0, rate_hz=8000, hz=510), rate_hz=8000)
    rows = [{"audio": f"{name}.wav", "tags": ["band500"], "split": "train"} for name in ("copy", "own")]
    for hz in (130, 2010):
        write_sound(data.parent / f"{hz}.wav", tone(2.0, rate_hz=8000, hz=hz), rate_hz=8000)
        rows.append({"audio": f"{hz}.wav", "tags": [f"band{hz // 10 * 10}"], "split": "train"})
    with data.open("a", encoding="utf-8") as file:
        file.write("\n" + "\n".join(map(json.dumps, rows)))
    status, said, _ = run("eval", "one", "--data", data, "--probe", "--json")
    assert status == 0
    protocol = json.loads(said)["protocol"]
    assert (protocol["clips"], protocol["split"]) == (3, "test")
    assert protocol["probe"].endswith("from 3 clips")
    assert protocol["on_two_splits"].startswith("1 sounds")


def test_braces_in_a_prompt_are_words(data: Path):
    status, said, _ = run("eval", "one", "--data", data, "--prompt", "a {} {", "--json")
    assert status == 0
    assert json.loads(said)["protocol"]["prompt"] == "a {} {"


def test_a_bundle_named_twice_is_taught_by_its_name(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names: list[str] = []

    def teach(_: Classifying, name: str, lesson: Lesson) -> Floats:
        names.append(name)
        return lesson.relevant.astype(np.float64)

    monkeypatch.setattr(Classifying, "__call__", teach)
    rows = data.read_text(encoding="utf-8")
    data.write_text(rows + "\n" + rows.replace('.wav"', '.flac"').replace('"test"', '"train"'), encoding="utf-8")
    for path in data.parent.glob("*.wav"):
        write_sound(path.with_suffix(".flac"), tone(2.0, rate_hz=8000, hz=int(path.stem)), rate_hz=8000)
    more = ["--probe", "--finetune", "--out", tmp_path / "out", "--json"]
    status, said, _ = run("eval", "one", "one", "--data", data, *more)
    assert status == 0
    assert names == ["one", "one"]
    assert list(json.loads(said)["bundles"]) == ["one", "one again"]


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
