"""Weights stored small: half-precision tensors widened at load, and a vocabulary of int8 rows.

The graph still computes in float32. What is exported is a tower whose weights have already been rounded, so graph
and tower agree to float32's own error, and what the rounding costs is measured apart (``parity.measure``).
"""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

#: Smaller tensors are left alone: a cast costs more than it saves.
_WORTH_IT = 1024


class PackedEmbedding(nn.Module):
    """A table of int8 rows, each with its scale: ``ids [batch, tokens] -> [batch, tokens, dim]`` float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scale = (weight.detach().abs().amax(1, keepdim=True) / 127).clamp(min=1e-12)
        self.register_buffer("rows", torch.round(weight.detach() / scale).to(torch.int8))
        self.register_buffer("scale", scale)

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


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store in float16, with a cast at load, every large float32 tensor of the graph that loses nothing by it."""
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < _WORTH_IT or not np.array_equal(half.astype(np.float32), values):
            continue
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(half, f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model)
    return model
