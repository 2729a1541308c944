"""Smaller graphs: what they keep, what they lose, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from engine.errors import BundleError
from exporters import precision as precision_module
from exporters.gate import GateError, LabelledSet, compare, ranked, read_set
from exporters.graph import export_graph, run_graph
from exporters.precision import check_precision, convert
from exporters.store import round_to_half


class Tower(nn.Module):
    """A front end with values far beyond float16, then layers of the kinds that towers have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("front", torch.randn(96, 96, dtype=torch.float64))
        self.register_buffer("shift", torch.randn(96))
        self.one, self.two, self.norm = nn.Linear(96, 128), nn.Linear(128, 96), nn.LayerNorm(96)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        wide = samples[:, None].double() * 1e4 @ self.front  # [batch, 1 token, 96]
        heard = torch.log(wide.square().float() + 1e-10) + self.shift
        x = self.norm(heard)
        x = (x + self.two(torch.softmax(self.one(x), -1)))[:, 0]
        return x / x.norm(dim=1, keepdim=True)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "tower.onnx"
    export_graph(Tower(), {"samples": torch.randn(2, 96)}, [{0: "batch"}], "embedding", path, {"batch": 64})
    return path


SAMPLES = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))


def kinds(graph: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(graph)).graph.node]


def test_int8_takes_the_large_products_and_leaves_the_front_end(graph: Path) -> None:
    exact = run_graph(graph, {"samples": SAMPLES})
    convert(graph, "int8", ["shift"])
    found = run_graph(graph, {"samples": SAMPLES})
    assert kinds(graph).count("MatMulInteger") == 2
    assert kinds(graph).count("MatMul") == 1
    assert not [one for one in onnx.load(str(graph)).graph.initializer if one.data_type == TensorProto.DOUBLE]
    weights = [
        t for t in onnx.load(str(graph)).graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 2
    ]
    scales = [t for t in onnx.load(str(graph)).graph.initializer if t.name.endswith("_scale")]
    assert len(weights) == 2
    assert sorted(int(np.prod(t.dims)) for t in scales) == [96, 128], "one scale a column"
    assert 0 < np.abs(found - exact).max() < 0.02


class Twice(nn.Module):
    """One layer over two halves: its weights are read twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last = nn.Linear(96, 128), nn.Linear(128, 64, bias=False)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(samples[:, :96]) + self.layer(samples[:, 96:]).tanh())


def test_int8_of_a_layer_that_is_used_twice(tmp_path: Path) -> None:
    path, samples = tmp_path / "twice.onnx", torch.randn(5, 192, generator=torch.Generator().manual_seed(2))
    export_graph(Twice(), {"samples": samples}, [{0: "batch"}], "embedding", path, {"batch": 64})
    exact = run_graph(path, {"samples": samples})
    assert kinds(path).count("Gemm") >= 2
    convert(path, "int8")
    assert kinds(path).count("MatMulInteger") == 3
    assert "Gemm" not in kinds(path)
    kept = [tensor for tensor in onnx.load(str(path)).graph.initializer if np.prod(tensor.dims) >= 4096]
    assert sorted(int(np.prod(tensor.dims)) for tensor in kept) == [64 * 128, 96 * 128], "no weights are there twice"
    found = run_graph(path, {"samples": samples})
    assert 0 < np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_fp16_keeps_the_front_end_wide_without_detours(graph: Path) -> None:
    exact = run_graph(graph, {"samples": SAMPLES})
    convert(graph, "fp16", ["shift"])
    found = run_graph(graph, {"samples": SAMPLES})
    assert np.isfinite(found).all(), "squares beyond 65504 have gone through float16"
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 2e-3
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(str(graph)).graph.initializer}
    assert stored["front"] == TensorProto.DOUBLE
    assert stored["one.bias"] == TensorProto.FLOAT16
    model = onnx.load(str(graph))
    makers = {node.output[0]: node for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in makers:
            assert makers[node.input[0]].op_type != "Cast", "from float32 to float16 and back"


def test_fp16_computes_what_is_wide_in_float32(graph: Path) -> None:
    convert(graph, "fp16", ["shift"])
    inferred = onnx.shape_inference.infer_shapes(onnx.load(str(graph))).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    computed = {(node.op_type, types[node.input[0]]) for node in inferred.node if node.input[0] in types}
    assert {("Softmax", TensorProto.FLOAT), ("LayerNormalization", TensorProto.FLOAT)} <= computed
    assert {kind for op, kind in computed if op in ("Gemm", "MatMul")} == {TensorProto.FLOAT16, TensorProto.DOUBLE}


def test_fp16_of_huge_tensors_in_parts_is_that_of_all_at_once(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Path(shutil.copy(graph, graph.with_name("parts.onnx")))
    convert(graph, "fp16", ["shift"])
    monkeypatch.setattr(precision_module, "_HUGE", 500)  # five rows, and no whole number of them
    convert(parts, "fp16", ["shift"])
    stored = [onnx.load(str(path)).graph.initializer for path in (graph, parts)]
    assert [(one.name, one.data_type) for one in stored[0]] == [(one.name, one.data_type) for one in stored[1]]
    assert np.array_equal(run_graph(graph, {"samples": SAMPLES}), run_graph(parts, {"samples": SAMPLES}))


class Counted(nn.Module):
    """A layer, and a sum of whole numbers beside it, such as the mask is over which sentence-transformers pools."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(96, 128)

    def forward(self, samples: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        return self.layer(samples) * counts.float().sum(1, keepdim=True).log()


def test_fp16_of_whole_numbers_beyond_its_range(tmp_path: Path) -> None:
    path, inputs = tmp_path / "counted.onnx", {"samples": SAMPLES, "counts": torch.full((5, 3), 70_001)}
    export_graph(Counted(), inputs, [{0: "batch"}, {0: "batch"}], "embedding", path, {"batch": 64})
    exact = run_graph(path, inputs)
    convert(path, "fp16")
    assert 0 < np.abs(run_graph(path, inputs) - exact).max() < 5e-3 * np.abs(exact).max()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_weights_that_were_published_in_half_are_converted_too(tmp_path: Path, precision: str) -> None:
    tower = Tower()
    round_to_half(tower)
    path = tmp_path / "tower.onnx"
    export_graph(tower, {"samples": torch.randn(2, 96)}, [{0: "batch"}], "embedding", path, {"batch": 64})
    exact = run_graph(path, {"samples": SAMPLES})
    convert(path, check_precision(precision), ["shift"])
    assert np.abs(run_graph(path, {"samples": SAMPLES}) - exact).max() < 0.02
    assert precision != "int8" or kinds(path).count("MatMulInteger") == 2


def test_nothing_worth_it_leaves_the_graph_alone(graph: Path) -> None:
    before, exact = kinds(graph), run_graph(graph, {"samples": SAMPLES})
    convert(graph, "int8", ["two.bias"])  # all that comes before the last layer is to stay
    assert kinds(graph) == before
    assert np.abs(run_graph(graph, {"samples": SAMPLES}) - exact).max() < 1e-5


def test_fp32_is_left_alone(graph: Path) -> None:
    before = graph.read_bytes()
    convert(graph, "fp32")
    assert graph.read_bytes() == before


def test_an_unknown_precision_is_answered_with_the_known_ones() -> None:
    with pytest.raises(BundleError, match="fp32, fp16, int8"):
        check_precision("int4")


# The gate


def test_ranks_by_hand() -> None:
    cosines = np.array([[0.9, 0.8, 0.1], [0.5, 0.4, 0.3]], np.float32)
    right = [[True, False, True], [False, True, False]]
    # The first text: right at ranks 1 and 3, (1 + 2/3) / 2; the second: at rank 2, 1/2.
    assert ranked(cosines, right) == {"R@1": 0.5, "mAP@10": pytest.approx((5 / 6 + 1 / 2) / 2)}


def test_ranks_against_the_slow_version() -> None:
    chance = np.random.default_rng(3)
    cosines = chance.random((7, 30)).astype(np.float32)
    right = chance.random((7, 30)) < 0.3
    right[:, 0] = True
    average = []
    for row, truth in zip(cosines, right, strict=True):
        order = sorted(range(30), key=lambda i: -row[i])
        found, total = 0, 0.0
        for rank, sound in enumerate(order[:10], 1):
            if truth[sound]:
                found += 1
                total += found / rank
        average.append(total / min(10, truth.sum()))
    assert ranked(cosines, right.tolist())["mAP@10"] == pytest.approx(np.mean(average))


def test_a_precision_that_loses_too_much_is_refused() -> None:
    labelled = LabelledSet("set.csv", (Path("a"), Path("b")), ("x", "y"))
    exact = {"R@1": 0.5, "mAP@10": 0.6}
    kept = compare(exact, {"R@1": 0.5, "mAP@10": 0.595}, labelled)
    assert kept["loss of mAP@10"] == pytest.approx(0.005)
    assert (kept["sounds"], kept["fp32 mAP@10"]) == (2, 0.6)
    with pytest.raises(GateError, match=r"0\.580 on set\.csv, 0\.600 in fp32"):
        compare(exact, {"R@1": 0.5, "mAP@10": 0.58}, labelled)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rows"),
        ("file,label\na.wav,x\n", "file, label"),
        ("path,text\nnone.wav,x\n", "1 sounds missing"),
        ("path,text\na.wav,x\na.wav,x\n", "1 texts"),
        ("path,text\na.wav,\na.wav,x\n", "texts"),
    ],
)
def test_a_set_that_can_not_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "set.csv").write_text(content)
    with pytest.raises(GateError, match=message):
        read_set(tmp_path / "set.csv")
    with pytest.raises(GateError, match=r"none\.csv"):
        read_set(tmp_path / "none.csv")


def test_a_set_is_read(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "set.tsv").write_text("path\ttext\tlicence\na.wav\ta dog\tCC0\nb.wav\ta cat, far away\tCC0\n")
    assert read_set(tmp_path / "set.tsv").texts == ("a dog", "a cat, far away")
