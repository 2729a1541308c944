"""What a run is told, from TOML and the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from engine.errors import EarshotError
from trainer.settings import Settings, TrainingError, read_settings


def test_options_go_before_the_file(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('data = "a.jsonl"\nrate = 1\nlanguages = ["fra"]\nepochs = 5\nlearn_temperature = true\n')
    found = read_settings(config, {"epochs": 7, "rate": None, "batch": None})
    assert found == Settings(data="a.jsonl", rate=1.0, languages=("fra",), epochs=7, learn_temperature=True, batch=None)
    assert read_settings(None, found.to_dict()) == found


def test_the_papers_values_are_the_defaults() -> None:
    found = Settings(data="x")
    assert (found.epochs, found.prompt, found.temperature) == (30, "this sound is", 0.07)
    assert (found.le_ratio, found.patch_dropout) == (0.1, 0.25)


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({}, "no data"),
        ({"data": "x", "epoch": 3}, "perhaps epochs?"),
        ({"data": "x", "epochs": "many"}, "type int"),
        ({"data": "x", "epochs": True}, "type int"),
        ({"data": "x", "epochs": 0}, "positive"),
        ({"data": "x", "languages": "fra"}, "a list of texts"),
        ({"data": "x", "batch": 1}, "two clips or more"),
        ({"data": "x", "le_ratio": 40}, "a share"),
        ({"data": "x", "le_ratio": 0.4}, "--languages that it is the chance of"),
        ({"data": "x", "translator": "m2m"}, "--languages to translate into"),
        ({"data": "x", "method": "compose"}, "finetune, concatenate, composed"),
        ({"data": "x", "method": "composed"}, "--unlabelled"),
        ({"data": "x", "learn": ["head"]}, "some of audio, text, a2t"),
        ({"data": "x", "captions": "two"}, "one or all"),
        ({"data": "x", "rate": math.inf}, "1 at most"),
        ({"data": "x", "rate": math.nan}, "1 at most"),
        ({"data": "x", "a2t_rate": 1e30}, "1 at most"),
        ({"data": "x", "clip": math.inf}, "positive"),
        ({"data": "x", "temperature": math.inf}, "positive"),
        ({"data": "x", "warmup": math.nan}, "a share"),
        ({"data": "x", "seed": -1}, "a number from 0"),
        ({"data": "x", "unlabelled": "y"}, "give --method composed"),
        ({"data": "x", "precision": "int8"}, "one of no, bf16, fp16"),
    ],
)
def test_what_is_no_setting_is_refused(told: dict[str, Any], says: str) -> None:
    with pytest.raises(EarshotError, match=says.replace("?", r"\?")):
        read_settings(None, told)


def test_a_file_that_is_no_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("epochs: 3")
    with pytest.raises(TrainingError, match=r"run\.toml"):
        read_settings(tmp_path / "run.toml", {"data": "x"})
