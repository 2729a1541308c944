"""Weights stored small: int8 steps and half-precision tensors widened at load, and a vocabulary of int8 rows.

The graph still computes in float32. What is exported is a tower whose weights have already been rounded, so graph
and tower agree to float32's own error, and what the rounding costs is measured apart (``parity.measure``).
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

#: Smaller tensors are left alone: a cast costs more than it saves.
_WORTH_IT = 1024
#: Values looked at together.
_PART = 1 << 20


class PackedEmbedding(nn.Module):
    """A table of int8 rows, each with its scale: ``ids [batch, tokens] -> [batch, tokens, dim]`` float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = (weight.detach().abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
        self.register_buffer("rows", torch.round(weight.detach() / scale).to(torch.int8))
        self.register_buffer("scale", scale)

    @classmethod
    def of(cls, rows: Tensor, scale: Tensor) -> PackedEmbedding:
        """A table from its rows ``[n, dim]`` int8 and their scales ``[n, 1]``."""
        made = cls(scale)
        made.rows, made.scale = rows, scale
        return made

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table, widened."""
        # Plain indexing: torch's exporter would call an embedding's value ``embedding``, the name of our output.
        return self.rows[ids].to(torch.float32) * self.scale[ids]


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round the parameters of ``module`` to float16's grid, in place. Raises ``ValueError`` where one is too large."""
    for name, parameter in module.named_parameters():
        rounded = parameter.half().float()
        if not torch.isfinite(rounded).all():
            raise ValueError(f"found {name} up to {float(parameter.abs().max()):.3g}, expected less than 65504")
        parameter.copy_(rounded)


@torch.no_grad()
def round_to_bytes(module: nn.Module) -> None:
    """Round the large matrices and kernels of ``module`` to 255 steps of a scale for each output, in place.

    The other parameters go to float16's grid, as do the scales. Raises ``ValueError`` where one is too large.
    """
    round_to_half(module)
    for parameter in module.parameters():
        if parameter.numel() >= _WORTH_IT and parameter.dim() > 1 and min(parameter.shape[:2]) > 1:
            flat = parameter.numpy().reshape(len(parameter), -1)
            scale = _scales(flat, 0)
            parameter.copy_(torch.from_numpy(np.rint(flat / scale) * scale).reshape(parameter.shape))


def _scales(values: NDArray[np.floating], axis: int) -> NDArray[np.float32]:
    """The step of each slice along ``axis``, on float16's grid: int8 times it is exact in float32."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    wanted = np.abs(values).max(axis=others, keepdims=True).astype(np.float64) / 127
    rounded = wanted.astype(np.float16)
    rounded = np.where(rounded < wanted, np.nextafter(rounded, np.float16(np.inf)), rounded)
    return np.maximum(rounded, np.finfo(np.float16).tiny).astype(np.float32)


def pack(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store in int8, widened and scaled at load, every large float32 tensor of the graph that loses nothing by it."""
    graph = model.graph
    widened = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _WORTH_IT or values.ndim < 2:
            continue
        for axis in range(values.ndim):
            scale = _scales(values, axis)
            steps = np.rint(values / scale)
            if np.abs(steps).max() <= 127 and np.array_equal(steps.astype(np.float32) * scale, values):
                graph.initializer.remove(tensor)
                graph.initializer.append(numpy_helper.from_array(steps.astype(np.int8), f"{tensor.name}.steps"))
                graph.initializer.append(numpy_helper.from_array(scale, f"{tensor.name}.scale"))
                wide = f"{tensor.name}.wide"
                widened.append(helper.make_node("Cast", [f"{tensor.name}.steps"], [wide], to=TensorProto.FLOAT))
                widened.append(helper.make_node("Mul", [wide, f"{tensor.name}.scale"], [tensor.name]))
                break
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*widened, *nodes])
    onnx.checker.check_model(model)
    return model


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store in float16, with a cast at load, every large float32 tensor of the graph that loses nothing by it."""
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _WORTH_IT or not _fits_half(values):
            continue
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(outline(model))
    return model


def _fits_half(values: NDArray[np.float32]) -> bool:
    """Whether float16 loses nothing of the values, which are looked at in parts: they may be much of the memory."""
    flat = values.reshape(-1)
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(part.astype(np.float16).astype(np.float32), part)
            for part in (flat[start : start + _PART] for start in range(0, flat.size, _PART))
        )


def outline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with inputs for its large tensors, which to check it or to infer its types would be copied."""
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    made.graph.name = graph.name
    for ours, theirs in (("node", graph.node), ("input", graph.input), ("output", graph.output)):
        getattr(made.graph, ours).extend(theirs)
    made.graph.value_info.extend(graph.value_info)
    for tensor in graph.initializer:
        if np.prod(tensor.dims) < _WORTH_IT:
            made.graph.initializer.append(tensor)
        else:
            made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return made
