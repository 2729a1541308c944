"""A float32 graph in less: float16 for CUDA, int8 for the CPU."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16, convert_np_to_float16

from engine.errors import BundleError
from exporters.graph import is_large, remove_graph, save_graph
from exporters.store import outline

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]
#: How far each may be from the reference (``parity.measure``). int8 is judged by what it finds: here only a vector
#: that could as well be that of another input is refused.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.5}
#: What loses too much in float16: exponents and squares leave its range.
_WIDE = ("Softmax", "LayerNormalization", "ReduceL2", "ReduceMean", "ReduceSum", "Log", "Exp", "Range", "CumSum")
#: A product with a smaller constant gains nothing by int8.
_WORTH_IT = 4096
#: Tensors of so many values, 64 MB, are converted in parts.
_HUGE = 1 << 24


def check_precision(precision: str) -> Precision:
    """The precision, if it is one. Raises ``BundleError`` listing those there are."""
    for known in get_args(Precision):
        if precision == known:
            return known
    raise BundleError(f"precision {precision!r}", f"one of {', '.join(get_args(Precision))}")


def convert(graph: Path, precision: Precision, exact: Sequence[str] = ()) -> None:
    """Rewrite a float32 graph in place. ``exact`` names the constants whose nodes, and all before them, stay as is."""
    if precision == "fp32":
        return
    model = _widened(onnx.load(str(graph)))
    if precision == "int8":
        _into_products(model)
    kept = _before(model, exact)
    if precision == "fp16":
        own = {node.name for node in model.graph.node}
        model.graph.value_info.extend(onnx.shape_inference.infer_shapes(outline(model)).graph.value_info)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of every constant below 1e-7, which rounds to zero
            _halve_huge(model, kept)
            halved = convert_float_to_float16(
                model,
                keep_io_types=True,
                disable_shape_infer=True,
                op_block_list=list(_WIDE),
                node_block_list=sorted(kept),
            )
        save_graph(_without_detours(halved, own), graph)
        return
    chosen = [node.name for node in _weighted(model) if node.name not in kept]
    _in_single(model)
    if not chosen:  # of none, the quantiser would take all
        save_graph(model, graph)
        return
    # The quantiser makes fewer copies of what it reads from a file; it writes two, where one would be too large.
    wide, two = graph.with_name(f"{graph.name}.wide"), is_large(model)
    save_graph(model, wide)
    del model
    remove_graph(graph)
    logging.getLogger().addFilter(_quiet)
    try:
        quantize_dynamic(
            str(wide),
            str(graph),
            use_external_data_format=two,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=chosen,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().removeFilter(_quiet)
        remove_graph(wide)


def _halve_huge(model: onnx.ModelProto, kept: Set[str]) -> None:
    """Put the largest tensors into float16 ahead of the converter, as it does, but in parts: it takes several copies.

    Those stay that a node reads which is ``kept`` in float32, or ``_WIDE``.
    """
    wide = {name for node in model.graph.node if node.name in kept or node.op_type in _WIDE for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= _HUGE and tensor.name not in wide:
            values = numpy_helper.to_array(tensor)
            half = np.concatenate([convert_np_to_float16(part) for part in np.split(values, _parts(values))])
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


def _parts(values: np.ndarray) -> list[int]:
    """Where to split rows into parts of about ``_HUGE`` values."""
    rows = max(1, _HUGE * len(values) // values.size)
    return list(range(rows, len(values), rows))


def _widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Undo ``store.halve``: what is stored in float16 becomes the float32 constant that it stands for."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    for index, node in enumerate(list(model.graph.node)):
        node.name = node.name or f"node.{index}"
        if node.op_type == "Cast" and node.input[0] in stored:
            tensor = stored[node.input[0]]
            wide = numpy_helper.to_array(tensor).astype(np.float32)
            model.graph.initializer.remove(tensor)
            model.graph.initializer.append(numpy_helper.from_array(wide, node.output[0]))
            model.graph.node.remove(node)
    del model.graph.value_info[:]  # shapes are inferred anew
    return model


def _into_products(model: onnx.ModelProto) -> None:
    """Make a ``MatMul`` and an ``Add`` of each ``Gemm``: the quantiser knows products, and fuses what is added to them.

    Its own way to do so turns weights round once for every node that reads them.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    turned: dict[str, str] = {}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        how = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        plain = how.get("alpha", 1) == how.get("beta", 1) == 1 and not how.get("transA")
        if node.op_type != "Gemm" or not plain or node.input[1] not in weights:
            model.graph.node.append(node)
            continue
        rows, weight, *bias = node.input
        if how.get("transB"):
            if weight not in turned:
                turned[weight] = f"{weight}.turned"
                value = np.ascontiguousarray(numpy_helper.to_array(weights[weight]).T)
                model.graph.initializer.append(numpy_helper.from_array(value, turned[weight]))
            weight = turned[weight]
        product = f"{node.output[0]}.product" if bias else node.output[0]
        model.graph.node.append(helper.make_node("MatMul", [rows, weight], [product], f"{node.name}.product"))
        if bias:
            model.graph.node.append(helper.make_node("Add", [product, *bias], node.output, f"{node.name}.sum"))
    read = {name for node in model.graph.node for name in node.input}
    for tensor in [tensor for name, tensor in weights.items() if name in turned and name not in read]:
        model.graph.initializer.remove(tensor)


def _in_single(model: onnx.ModelProto) -> None:
    """Compute in float32 what is computed in float64, log-mels: half the time, and decibels beyond what int8 hears."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
                attribute.i = TensorProto.FLOAT


def _without_detours(model: onnx.ModelProto, own: Set[str]) -> onnx.ModelProto:
    """Join nodes that stay in float32: the converter leads every value between two of them through float16.

    Of casts that give the same value, of which it makes one for every node that reads it, the first is kept. ``own``
    names the nodes that it has not made: what they cast to float16 was of another type, such as a mask's whole numbers.
    """
    given: set[str] = set()
    narrowed: dict[str, NodeProto] = {}  # name in float16 -> what made it
    for node in list(model.graph.node):
        if node.output[0] in given:
            model.graph.node.remove(node)
        elif node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            narrowed[node.output[0]] = node
        given.update(node.output)
    direct: dict[str, str] = {}  # name in float32 -> another of the same value
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT and node.input[0] in narrowed:
            maker = narrowed[node.input[0]]
            if maker.name in own:
                node.input[0] = maker.input[0]
            else:
                direct[node.output[0]] = maker.input[0]
    for node in model.graph.node:
        node.input[:] = [direct.get(name, name) for name in node.input]
    while unread := _unread_casts(model):
        for node in unread:
            model.graph.node.remove(node)
    return model


def _unread_casts(model: onnx.ModelProto) -> list[NodeProto]:
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    return [node for node in model.graph.node if node.op_type == "Cast" and node.output[0] not in read]


def _quiet(record: logging.LogRecord) -> bool:
    """Leave out the advice to simplify the graph first: the exporter has done so."""
    return "pre-processing before quantization" not in record.getMessage()


def _weighted(model: onnx.ModelProto) -> list[NodeProto]:
    """The products with a large constant."""
    large = {tensor.name for tensor in model.graph.initializer if np.prod(tensor.dims) >= _WORTH_IT}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in large]


def _before(model: onnx.ModelProto, exact: Sequence[str]) -> set[str]:
    """The names of the nodes that read one of the constants ``exact``, and of all that come before them."""
    makers = {output: node for node in model.graph.node for output in node.output}
    kept: set[str] = set()
    waiting = [node for node in model.graph.node if any(name in exact for name in node.input)]
    while waiting:
        node = waiting.pop()
        if node.name not in kept:
            kept.add(node.name)
            waiting += [makers[name] for name in node.input if name in makers]
    return kept
