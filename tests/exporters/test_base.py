"""What can be trained further: a bundle gives back the towers that it was made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.bundle import STARTER_DIR, open_bundle
from exporters.amend import amend
from exporters.base import find_base, load_base
from exporters.errors import SourceError
from exporters.weights import find_weights, read_weights


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_starter_comes_back_as_it_runs() -> None:
    source = load_base(find_base("starter"))
    assert source.audio is not None
    assert source.text is not None
    with np.load(STARTER_DIR / "golden.npz") as golden, torch.inference_mode():
        heard = source.audio.module(torch.from_numpy(golden["audio_samples"])).numpy()
        assert np.abs(heard - golden["audio_vectors"]).max() < 1e-5
        read = source.text.reference([str(text) for text in golden["texts"]])
        assert np.abs(read - golden["text_vectors"]).max() < 1e-5
    assert source.text.languages == open_bundle("starter").manifest.text.languages  # type: ignore[union-attr]


def test_what_was_rounded_is_no_base(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(STARTER_DIR, tmp_path / "b"))
    path = folder / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"precision": "fp32"', '"precision": "fp16"'))
    with pytest.raises(SourceError, match="fp16"):
        load_base(tmp_path / "b")


def test_a_bundle_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    shutil.copytree(STARTER_DIR, tmp_path / "b")
    (tmp_path / "b" / "towers.json").unlink()
    with pytest.raises(SourceError, match=r"without towers\.json"):
        load_base(tmp_path / "b")


def test_no_such_base() -> None:
    with pytest.raises(SourceError, match=r"'startre'.*starter"):
        find_base("startre")


def test_a_parameter_that_the_graph_lacks_is_named() -> None:
    with pytest.raises(SourceError, match=r"audio\.onnx without made\.up"):
        find_weights(STARTER_DIR / "audio.onnx", {"made.up": torch.arange(21) / 7})
    with pytest.raises(SourceError, match="without nowhere"):
        read_weights(STARTER_DIR / "audio.onnx", {"x": "nowhere^T"})


def test_an_amended_bundle_is_whole(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(STARTER_DIR, tmp_path / "b"))
    (folder / "more.txt").write_text("more")
    amend(folder, {"told": 1})
    bundle = open_bundle(folder)
    bundle.verify()
    assert bundle.manifest.extra["told"] == 1
    assert "more.txt" in bundle.manifest.files
    assert bundle.manifest.space_id == open_bundle("starter").manifest.space_id
    was = json.loads((STARTER_DIR / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["calibration"] == was["calibration"]
