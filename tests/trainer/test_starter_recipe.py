"""The starter's recipe, where it can't be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.recipes.starter import main


def test_without_data_the_recipe_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"), "--stages", "text"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "sounds.csv" in said
    assert "Traceback" not in said
