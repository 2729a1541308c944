"""The graph that compares sounds with a block of captions and weighs these: ``engine/projection.onnx``.

``python -m exporters.projection`` writes it. It knows no sizes: any space, any number of sounds, any block.
"""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto, TensorProto, checker, helper

from engine.projection import GRAPH, MOST_ABOVE
from exporters.graph import OPSET

_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def projection_graph() -> ModelProto:
    """From ``sounds [n, d]`` over tau and ``captions [d, size]`` in float16: ``logits [n, size]``, the products, and
    ``sums [n, d]`` of the captions, each weighed ``exp(logit - zero)`` with ``zeros [n, 1]``.

    What would overflow is held at ``MOST_ABOVE``: whoever asks sees it from the logits, and asks again.
    """
    nodes = [
        helper.make_node("Cast", ["captions"], ["wide"], to=_FLOAT),
        helper.make_node("MatMul", ["sounds", "wide"], ["logits"]),
        helper.make_node("Sub", ["logits", "zeros"], ["above"]),
        helper.make_node("Min", ["above", "most"], ["held"]),
        helper.make_node("Exp", ["held"], ["weights"]),
        helper.make_node("Gemm", ["weights", "wide"], ["sums"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "projection",
        [
            helper.make_tensor_value_info("sounds", _FLOAT, ["n", "d"]),
            helper.make_tensor_value_info("captions", _HALF, ["d", "size"]),
            helper.make_tensor_value_info("zeros", _FLOAT, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("logits", _FLOAT, ["n", "size"]),
            helper.make_tensor_value_info("sums", _FLOAT, ["n", "d"]),
        ],
        [helper.make_tensor("most", _FLOAT, [], [MOST_ABOVE])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    checker.check_model(model)
    return model


def main() -> None:
    """Write the graph to where the engine looks for it."""
    Path(GRAPH).write_bytes(projection_graph().SerializeToString())


if __name__ == "__main__":
    main()
