"""Graphs on the disk: one file, or two where one would be too large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.bundle import file_sha256, open_bundle
from engine.encoders import OnnxEncoders
from engine.errors import BundleError
from exporters import graph
from exporters.export import export_bundle
from exporters.graph import beside, export_graph, remove_graph, run_graph
from exporters.precision import Precision, convert
from tests.trainer import tiny_towers


@pytest.fixture(autouse=True)
def _small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(graph, "LARGEST_BYTES", 10_000)


SAMPLES = torch.randn(3, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_large_graph_is_in_two_files_and_runs(tmp_path: Path, precision: Precision) -> None:
    torch.manual_seed(0)
    tower = nn.Sequential(nn.Linear(96, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    path = tmp_path / "audio.onnx"
    export_graph(tower, {"samples": SAMPLES[:2]}, [{0: "batch"}], "embedding", path, {"batch": 64})
    convert(path, precision)
    assert {file.name for file in tmp_path.iterdir()} == {"audio.onnx", "audio.onnx.data"}
    assert path.stat().st_size < 10_000 < beside(path).stat().st_size
    with torch.inference_mode():
        wanted = tower(SAMPLES).numpy()
    off = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.05}[precision]
    assert np.abs(run_graph(path, {"samples": SAMPLES}) - wanted).max() < off * np.abs(wanted).max()
    remove_graph(path)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_became_small_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audio.onnx"
    for limit, files in ((10_000, 2), (10**9, 1)):
        monkeypatch.setattr(graph, "LARGEST_BYTES", limit)
        export_graph(nn.Linear(96, 64), {"samples": SAMPLES[:2]}, [{0: "batch"}], "embedding", path, {"batch": 64})
        assert len(list(tmp_path.iterdir())) == files


def test_a_bundle_hashes_and_verifies_both_files(tmp_path: Path) -> None:
    export_bundle(tiny_towers.own(), tmp_path / "b", allow_collapsed=True)
    bundle = open_bundle(tmp_path / "b")
    data = bundle.path("text.onnx.data")
    assert bundle.manifest.files[data.name] == file_sha256(data)
    assert {path.name for path in bundle.folder.iterdir()} == {*bundle.manifest.files, "manifest.json"}
    bundle.verify()
    assert OnnxEncoders(bundle, "cpu", threads=1).text.encode_text(["a dog"]).shape == (1, tiny_towers.DIM)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError, match=r"text\.onnx\.data with sha256"):
        bundle.verify()
    data.unlink()
    with pytest.raises(BundleError, match=r"text\.onnx"):
        _ = OnnxEncoders(bundle, "cpu", threads=1).text
