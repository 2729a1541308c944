"""The graph that the engine weighs captions with is the one that its recipe makes."""

from __future__ import annotations

import onnx

from engine.projection import GRAPH
from exporters.projection import projection_graph


def test_the_shipped_graph_is_what_is_made_here() -> None:
    assert onnx.load(str(GRAPH)) == projection_graph()
