"""The graphs of a caption decoder: the mapping network, and one that takes every step of it.

The decoder's graph is written node by node: it runs the prefix and every later step, so the weights are stored once,
and what is remembered never moves. All beams of a clip share one pool of keys and values, to which each step adds one
column a beam; whose columns a beam may look at, its own past, is what the mask says::

    prefix [clips, p, width]        embeddings to begin with; p = 0 in later steps
    ids [clips, n]                  pieces: the start, or the last piece of n beams
    positions [p + n]               the place of each
    mask [clips, p + n, past + p + n]   0, or -inf where a row may not look
    k [1]                           how many candidates
    key_i, value_i [clips, heads, past, width / heads]
    -> scores [clips, n, k]         log-probabilities of the likeliest next pieces, likeliest first
       tokens [clips, n, k]
       new_key_i, new_value_i [clips, heads, past + p + n, width / heads]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from exporters.decoder import CaptionDecoder, DecoderConfig
from exporters.graph import OPSET


class _Graph:
    """Nodes and weights in the order they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: Tensor | NDArray[Any] | Sequence[int]) -> str:
        """Keep a tensor; lists become int64."""
        array = value.detach().numpy() if isinstance(value, Tensor) else np.asarray(value)
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node with one output."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def linear(self, name: str, layer: torch.nn.Linear, x: str) -> str:
        """``[rows, in] -> [rows, out]``."""
        weights = [self.weight(f"{name}.weight", layer.weight), self.weight(f"{name}.bias", layer.bias)]
        return self.add("Gemm", [x, *weights], name, transB=1)

    def norm(self, name: str, layer: torch.nn.LayerNorm, x: str) -> str:
        """Over the last axis."""
        weights = [self.weight(f"{name}.weight", layer.weight), self.weight(f"{name}.bias", layer.bias)]
        return self.add("LayerNormalization", [x, *weights], name, axis=-1, epsilon=layer.eps)

    def model(self, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> onnx.ModelProto:
        """The whole, checked; inputs and outputs are (type, shape)."""
        infos = [
            [helper.make_tensor_value_info(key, *value) for key, value in each.items()] for each in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, name, *infos, initializer=self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="earshot")
        model.ir_version = 10
        onnx.checker.check_model(model)
        return model


def prefix_model(decoder: CaptionDecoder) -> onnx.ModelProto:
    """``vectors [clips, dim] -> prefix [clips, p, width]``."""
    config, graph = decoder.config, _Graph()
    hidden = graph.add("Tanh", [graph.linear("first", decoder.mapper[0], "vectors")], "hidden")
    flat = graph.linear("second", decoder.mapper[2], hidden)
    shape = graph.weight("shape", [-1, config.prefix, config.width])
    graph.add("Reshape", [flat, shape], "prefix")
    return graph.model(
        "caption_prefix",
        {"vectors": (TensorProto.FLOAT, ["clips", config.dim])},
        {"prefix": (TensorProto.FLOAT, ["clips", config.prefix, config.width])},
    )


def decoder_model(decoder: CaptionDecoder) -> onnx.ModelProto:
    """The graph that the head of this file describes."""
    config, graph = decoder.config, _Graph()
    width = config.width
    pieces = graph.weight("pieces", decoder.pieces.weight)
    begun = graph.add("Concat", ["prefix", graph.add("Gather", [pieces, "ids"], "read")], "begun", axis=1)
    places = graph.add("Gather", [graph.weight("places", decoder.positions), "positions"], "placed")
    together = graph.add("Add", [begun, places], "together")
    clips = graph.add("Shape", ["ids"], "clips", start=0, end=1)
    split = graph.add(
        "Concat", [clips, graph.weight("split.rest", [-1, 3 * config.heads, width // config.heads])], "split", axis=0
    )
    mask = graph.add("Unsqueeze", ["mask", graph.weight("one", [1])], "mask of all heads")
    flat = graph.weight("flat", [-1, width])
    x = graph.add("Reshape", [together, flat], "x")
    for number, layer in enumerate(decoder.layers):
        x = _layer(graph, layer, f"layer {number}", number, x, {"split": split, "mask": mask, "flat": flat})
    _candidates(graph, decoder, x, pieces)
    return graph.model("caption_decoder", _inputs(config), _outputs(config))


def _layer(graph: _Graph, layer: Any, name: str, number: int, x: str, shared: Mapping[str, str]) -> str:
    """One transformer layer on rows ``[clips * m, width]``."""
    mixed = graph.linear(f"{name} mix", layer.mix, graph.norm(f"{name} norm", layer.norm, x))
    apart = graph.add("Reshape", [mixed, shared["split"]], f"{name} apart")
    heads = graph.add("Transpose", [apart], f"{name} heads", perm=[0, 2, 1, 3])
    ends = [f"{name} query", f"{name} key", f"{name} value"]
    graph.nodes.append(helper.make_node("Split", [heads], ends, axis=1, num_outputs=3))
    query, key, value = ends
    keys = graph.add("Concat", [f"key_{number}", key], f"new_key_{number}", axis=2)
    values = graph.add("Concat", [f"value_{number}", value], f"new_value_{number}", axis=2)
    scale = graph.weight(f"{name} scale", np.float32(1 / math.sqrt(layer.mix.in_features // layer.heads)))
    scaled = graph.add("Mul", [query, scale], f"{name} scaled")
    turned = graph.add("Transpose", [keys], f"{name} turned", perm=[0, 1, 3, 2])
    seen = graph.add("Add", [graph.add("MatMul", [scaled, turned], f"{name} alike"), shared["mask"]], f"{name} seen")
    heard = graph.add("MatMul", [graph.add("Softmax", [seen], f"{name} weights", axis=-1), values], f"{name} heard")
    back = graph.add("Transpose", [heard], f"{name} rows", perm=[0, 2, 1, 3])
    rows = graph.add("Reshape", [back, shared["flat"]], f"{name} flat")
    x = graph.add("Add", [x, graph.linear(f"{name} back", layer.back, rows)], f"{name} middle")
    inner = graph.linear(f"{name} inner", layer.inner[0], graph.norm(f"{name} norm inner", layer.norm_inner, x))
    bent = _gelu(graph, name, inner)
    return graph.add("Add", [x, graph.linear(f"{name} outer", layer.inner[2], bent)], f"{name} end")


def _gelu(graph: _Graph, name: str, x: str) -> str:
    """GELU by tanh (arXiv:1606.08415, section 2), in the pattern that onnxruntime runs as one kernel."""
    constants = {"cube": 0.044715, "root": math.sqrt(2 / math.pi), "unit": 1.0, "half": 0.5}
    c = {key: graph.weight(f"{name} {key}", np.float32(value)) for key, value in constants.items()}
    third = graph.add("Pow", [x, graph.weight(f"{name} three", np.float32(3))], f"{name} third")
    bend = graph.add("Add", [x, graph.add("Mul", [third, c["cube"]], f"{name} cubed")], f"{name} bend")
    tanh = graph.add("Tanh", [graph.add("Mul", [bend, c["root"]], f"{name} rooted")], f"{name} tanh")
    gate = graph.add("Add", [tanh, c["unit"]], f"{name} gate")
    return graph.add("Mul", [graph.add("Mul", [x, c["half"]], f"{name} halved"), gate], f"{name} gelu")


def _candidates(graph: _Graph, decoder: CaptionDecoder, x: str, pieces: str) -> None:
    """The likeliest next pieces, after the last n rows of each clip alone."""
    width = decoder.config.width
    begun = graph.add("Shape", ["prefix"], "begun at", start=1, end=2)
    clips = graph.add("Concat", ["clips", graph.weight("rows", [-1, width])], "by clip", axis=0)
    rows = graph.add("Reshape", [x, clips], "all rows")
    ends = [graph.weight("to the end", [2**62]), graph.weight("axis", [1])]
    last = graph.add("Reshape", [graph.add("Slice", [rows, begun, *ends], "last"), "flat"], "last rows")
    logits = graph.add("Gemm", [graph.norm("leave", decoder.leave, last), pieces], "logits", transB=1)
    graph.nodes.append(helper.make_node("TopK", [logits, "k"], ["best", "chosen"], axis=-1))
    sums = graph.add("ReduceLogSumExp", [logits, graph.weight("last axis", [-1])], "log of the sum", keepdims=1)
    likely = graph.add("Sub", ["best", sums], "likely")
    shape = graph.add("Concat", [graph.add("Shape", ["ids"], "of ids"), "k"], "of candidates", axis=0)
    graph.add("Reshape", [likely, shape], "scores")
    graph.add("Reshape", ["chosen", shape], "tokens")


def _inputs(config: DecoderConfig) -> dict[str, Any]:
    """Name -> (type, shape)."""
    kept = [TensorProto.FLOAT, ["clips", config.heads, "past", config.width // config.heads]]
    return {
        "prefix": (TensorProto.FLOAT, ["clips", "p", config.width]),
        "ids": (TensorProto.INT64, ["clips", "n"]),
        "positions": (TensorProto.INT64, ["m"]),
        "mask": (TensorProto.FLOAT, ["clips", "m", "total"]),
        "k": (TensorProto.INT64, [1]),
    } | {f"{end}_{number}": kept for number in range(config.layers) for end in ("key", "value")}


def _outputs(config: DecoderConfig) -> dict[str, Any]:
    kept = [TensorProto.FLOAT, ["clips", config.heads, "total", config.width // config.heads]]
    return {
        "scores": (TensorProto.FLOAT, ["clips", "n", "candidates"]),
        "tokens": (TensorProto.INT64, ["clips", "n", "candidates"]),
    } | {f"new_{end}_{number}": kept for number in range(config.layers) for end in ("key", "value")}
