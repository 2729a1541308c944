"""`earshot eval captions`: figures, what didn't run, what was left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from earshot import models
from earshot.commands import app
from engine.fakes import FakeEncoders


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tones with references, and captions of them."""
    monkeypatch.setattr(models, "load_encoders", lambda *_: FakeEncoders())
    seconds = np.arange(8000) / 8000
    for name, hertz in (("low", 125), ("high", 1000)):
        sf.write(tmp_path / f"{name}.wav", 0.5 * np.sin(2 * np.pi * hertz * seconds), 8000)
    references = "audio,captions,lang\nlow.wav,band125,eng\nlow.wav,a low tone,eng\nhigh.wav,band1000,eng\n"
    (tmp_path / "refs.csv").write_text(references, encoding="utf-8")
    (tmp_path / "said.csv").write_text("path,caption\nlow.wav,band125\nhigh.wav,band1000\n", encoding="utf-8")
    return tmp_path


def asked(tables: Path, *more: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(
        app, ["eval", "captions", str(tables / "said.csv"), "--refs", str(tables / "refs.csv"), "--json", *more]
    )
    return result.exit_code, json.loads(result.stdout) if result.stdout else {}


def test_right_captions_are_found_right(tables: Path) -> None:
    status, found = asked(tables)
    assert status == 0
    values = {one["name"]: one["value"] for one in found["figures"]}  # type: ignore[attr-defined, index]
    assert values["BLEU-1"] == values["ROUGE-L"] == values["own clip R@1"] == 1.0
    assert values["vocabulary"] == 2
    assert found["left_out"] == []
    assert all(str(why).startswith("not run: needs") for why in found["not_run"].values())  # type: ignore[attr-defined]


def test_a_clip_without_a_caption_and_one_that_cannot_be_heard_are_left_out(tables: Path) -> None:
    (tables / "high.wav").write_bytes(b"no sound")
    (tables / "refs.csv").write_text("audio,captions\nlow.wav,x\nhigh.wav,y\nmore.wav,z\n", encoding="utf-8")
    status, found = asked(tables)
    assert status == 3
    left_out = {Path(one["path"]).name: one["reason"] for one in found["left_out"]}  # type: ignore[attr-defined, index]
    assert left_out["more.wav"] == "no caption"
    assert set(left_out) == {"more.wav", "high.wav"}


def test_without_the_sounds_the_words_are_measured(tables: Path) -> None:
    for name in ("low", "high"):
        (tables / f"{name}.wav").unlink()
    status, found = asked(tables)
    assert status == 0
    assert "needs the clips' sound files" in found["not_run"]["caption-audio similarity"]  # type: ignore[index]


def test_unsure_captions_are_judged_and_counted(tables: Path) -> None:
    told = "path,caption,score,unsure\nlow.wav,band125,0.9,\nhigh.wav,a door,0.1,yes\n"
    (tables / "said.csv").write_text(told, encoding="utf-8")
    status, found = asked(tables)
    assert (status, found["unsure"]) == (0, 1)

    def value(kind: str) -> tuple[float, int]:
        figures = {one["name"]: one for one in found[kind]}  # type: ignore[attr-defined, index]
        return figures["ROUGE-L"]["value"], figures["ROUGE-L"]["count"]

    assert value("figures") == (0.5, 2)
    assert value("sure_figures") == (1.0, 1)
    words = ["eval", "captions", str(tables / "said.csv"), "--refs", str(tables / "refs.csv")]
    told = CliRunner().invoke(app, words).stdout
    assert "\n\n1 of these are unsure; the words" in told
    assert "\\" not in told  # an escaped line end


def test_references_may_have_the_columns_of_exported_captions(tables: Path) -> None:
    references = "path,start_s,caption\nlow.wav,0,band125\nhigh.wav,0,band1000\n"
    (tables / "refs.csv").write_text(references, encoding="utf-8")
    status, found = asked(tables)
    assert status == 0
    assert {one["name"]: one["value"] for one in found["figures"]}["BLEU-1"] == 1.0  # type: ignore[attr-defined, index]


def test_nothing_in_common_is_an_error(tables: Path) -> None:
    (tables / "said.csv").write_text("path,caption\nother.wav,rain\n", encoding="utf-8")
    result = CliRunner().invoke(app, ["eval", "captions", str(tables / "said.csv"), "--refs", str(tables / "refs.csv")])
    assert result.exit_code == 1
    assert "the same paths or file names" in str(result.exception)


def test_a_table_for_people(tables: Path) -> None:
    result = CliRunner().invoke(app, ["eval", "captions", str(tables / "said.csv"), "--refs", str(tables / "refs.csv")])
    assert result.exit_code == 0
    assert "CIDEr-D" in result.stdout
    assert "METEOR: not run" in result.stdout
