"""Parity must catch a front end that is only slightly wrong, and storage must lose what it says and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from exporters.frontend import FrontConfig, LogMel
from exporters.parity import FP32_TOLERANCE, ParityError, measure, probes, require
from exporters.store import PackedEmbedding, halve, pack, round_to_bytes, round_to_half

MUTANTS = {
    "lowest band": {"low_hz": 130.0},
    "highest band": {"high_hz": 7450.0},
    "hop": {"hop_samples": 168},
    "window": {"frame_samples": 384},
    "log offset": {"offset": 1.1e-3},
    "bands": {"low_hz": 100.0, "high_hz": 7600.0},
    "bins": {"fft_samples": 510},
}


def heard(config: FrontConfig, samples: torch.Tensor) -> np.ndarray:
    """A stand-in for a tower: the log-mels of the first frames, laid out as a vector."""
    return LogMel(config)(samples)[:, :20].flatten(1).numpy()


@pytest.fixture(scope="module")
def samples() -> torch.Tensor:
    return torch.from_numpy(np.stack(list(probes(6000, 16_000).values())))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name, samples):
    right, wrong = FrontConfig(), replace(FrontConfig(), **MUTANTS[name])
    with pytest.raises(ParityError, match="at most"):
        require("mutant", heard(wrong, samples), heard(right, samples))


def test_a_symmetric_window_is_caught(samples):
    right, wrong = LogMel(FrontConfig()), LogMel(FrontConfig())
    half = torch.arange(200, dtype=torch.float64)
    factor = (0.5 + 0.5 * torch.cos(2 * torch.pi * half / 399)) / (0.5 + 0.5 * torch.cos(2 * torch.pi * half / 400))
    wrong.cosines *= factor[:, None].float()
    wrong.sines *= factor[:, None].float()
    reference = right(samples).flatten(1).numpy()
    assert measure(wrong(samples).flatten(1).numpy(), reference) > FP32_TOLERANCE


def test_measure_by_hand():
    reference = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]], np.float32)  # apart by 5, 10 and 5
    found = reference + np.array([[0.0, 0.0], [0.0, 0.5], [0.0, 0.0]], np.float32)
    assert measure(found, reference) == pytest.approx(0.1)
    assert measure(np.full_like(reference, np.nan), reference) == np.inf


def test_packed_rows_lose_less_than_half_a_step():
    torch.manual_seed(0)
    table = torch.randn(50, 16) * torch.logspace(-3, 1, 50)[:, None]
    packed = PackedEmbedding(table)
    ids = torch.arange(50)[None]
    step = table.abs().amax(1, keepdim=True) / 127
    assert ((packed(ids)[0] - table).abs() <= step * 0.5001).all()


def test_halving_changes_no_value():
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 64)
    round_to_half(layer)
    weights = {"kept.small": np.ones(3, np.float32), "halved": layer.weight.detach().numpy()}
    weights["kept.exact"] = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    model = _sum_of(weights)
    before = {t.name: t.data_type for t in model.graph.initializer}
    after = {t.name: t for t in halve(model).graph.initializer}
    assert set(before) - set(after) == {"halved"}
    assert after["halved.half"].data_type == TensorProto.FLOAT16
    assert np.array_equal(numpy_helper.to_array(after["halved.half"]).astype(np.float32), weights["halved"])


@pytest.mark.parametrize("axis", [0, 1])
def test_packing_changes_no_value(axis: int):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 48)
    with torch.no_grad():
        layer.weight *= torch.logspace(-6, 1, 48)[:, None]  # outputs of very different size
    exact = layer.weight.detach().clone()
    round_to_bytes(layer)
    step = exact.abs().amax(1, keepdim=True) / 127
    assert ((layer.weight - exact).abs() <= step * 0.52 + 2**-14).all()
    stored = layer.weight.detach().numpy() if axis == 0 else layer.weight.detach().numpy().T.copy()
    weights = {"packed": stored, "kept.exact": np.random.default_rng(0).random((64, 64)).astype(np.float32)}
    model = _sum_of(weights)
    before = InferenceSession(model.SerializeToString()).run(None, {})[0]
    packed = pack(model)
    kinds = {t.name: t.data_type for t in packed.graph.initializer}
    assert set(kinds) == {"packed.steps", "packed.scale", "kept.exact"}
    assert kinds["packed.steps"] == TensorProto.INT8
    np.testing.assert_array_equal(InferenceSession(packed.SerializeToString()).run(None, {})[0], before)


def test_too_large_for_half_is_refused():
    layer = torch.nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(1e6)
    with pytest.raises(ValueError, match="65504"):
        round_to_half(layer)


def _sum_of(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceSum", [name], [f"{name}.sum"], keepdims=0) for name in weights]
    nodes.append(helper.make_node("Sum", [f"{name}.sum" for name in weights], ["out"]))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "sums", [], [out], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
