"""A torch module -> an ONNX graph of dynamic batch: one file, or two where it is too large for one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from engine.session import Session
from exporters.store import halve

OPSET = 20  # the first with Gelu
MAX_BATCH = 4096
#: Protocol buffers end at 2 GiB; what is not a tensor is small.
LARGEST_BYTES = 2**31 - 2**26
_OUTPUT = "the.output"

#: Per input the names of its dynamic axes, e.g. ``{0: "batch", 1: "tokens"}``; a name stands for one size throughout.
Axes = Mapping[int, str]


def export_graph(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    axes: Sequence[Axes],
    output: str,
    path: Path,
    limits: Mapping[str, int],
) -> None:
    """Write ``module`` to ``path``; ``inputs`` are examples, in the order of ``forward``, with at least two rows.

    ``limits`` gives each dynamic axis its largest size. Large tensors that fit float16 exactly are stored so.
    """
    dims = {name: torch.export.Dim(name, min=1, max=limit) for name, limit in limits.items()}
    shapes = tuple({axis: dims[name] for axis, name in wanted.items()} for wanted in axes)
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter warns of its own deprecations and of torchvision's absence; neither is ours to act on.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[_OUTPUT],
            dynamic_shapes=shapes,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    save_graph(halve(_named(_without_traces(program.model_proto), output)), path)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph in place of what is at ``path``; a large one's tensors go to a file beside it, ``NAME.data``."""
    remove_graph(path)
    if is_large(model):
        large = {"save_as_external_data": True, "location": beside(path).name, "size_threshold": 1024}
        onnx.save_model(model, str(path), **large)
    else:
        onnx.save_model(model, str(path))


def remove_graph(path: Path) -> None:
    """Remove a graph with the file of its tensors, as far as they are there."""
    for file in (path, beside(path)):
        file.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """Where a large graph's tensors lie."""
    return path.with_name(f"{path.name}.data")


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a graph is too large for one file."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer) > LARGEST_BYTES


def _named(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """Call the output ``output``, and another value of that name, such as an embedding layer's, something else."""
    names = {output: f"{output}.inner", _OUTPUT: output}
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    for value in (*model.graph.value_info, *model.graph.output):
        value.name = names.get(value.name, value.name)
    return model


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what the exporter notes about where it ran: stack traces and file names of this machine."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""
    model.doc_string = ""
    return model


def run_graph(path: Path, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """The graph's output on the CPU, through the engine's own session."""
    return Session(path, "cpu", threads=1).run({name: value.numpy() for name, value in inputs.items()})
