"""``compose.onnx``: words and a sound as one text. What it shares with ``text.onnx`` it reads from there.

The graph holds the whole text tower once more, so that the engine needs no second way of running one; but its weights
are the same bytes, and ONNX lets a tensor lie in another file. So it costs the a2t module, and no more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn

from engine.bundle import Bundle
from engine.composer import OnnxComposer
from engine.encoders import OnnxTextEncoder
from engine.types import FloatArray
from exporters.compare import TEXTS
from exporters.graph import MAX_BATCH, export_graph
from exporters.parity import require
from exporters.precision import TOLERANCES, Precision, check_precision, convert
from exporters.source import TextPart
from exporters.store import pack

GRAPH = "compose.onnx"
#: Smaller tensors are not worth a place in another file.
_WORTH_IT = 1024
_GOLDEN = 3


def write_compose(module: nn.Module, part: TextPart, folder: Path, precision: Precision, packed: bool = False) -> None:
    """``compose.onnx`` beside the ``text.onnx`` of the same tower; ``packed`` as the starter is stored."""
    ids, sound = torch.full((2, 8), 5), torch.eye(2, _dim(module))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "sound": sound}
    axes = {0: "batch", 1: "tokens"}
    path = folder / GRAPH
    limits = {"batch": MAX_BATCH, "tokens": part.max_tokens - 1}
    export_graph(module, inputs, [axes, axes, {0: "batch"}], "embedding", path, limits)
    if packed:
        onnx.save_model(pack(onnx.load(str(path))), str(path))
    convert(path, precision)
    share(path, folder / "text.onnx")


def compare_compose(module: nn.Module, part: TextPart, bundle: Bundle, golden: dict[str, Any]) -> dict[str, float]:
    """How far the engine's composed texts are from the module's; adds some to ``golden``. Raises ``ParityError``."""
    sounds = _sounds(len(TEXTS), bundle.manifest.dim)
    composer = OnnxComposer(bundle, OnnxTextEncoder(bundle, "cpu"), "cpu")
    found = np.concatenate([composer.compose(text, sound[None]) for text, sound in zip(TEXTS, sounds, strict=True)])
    reader = type(part.tokenizer).from_str(part.tokenizer.to_str())
    reader.enable_truncation(part.max_tokens - 1)
    read = reader.encode_batch([(text.lower() if part.lowercase else text) + part.suffix for text in TEXTS])
    with torch.inference_mode():
        wanted = module(
            torch.tensor([one.ids for one in read]),
            torch.tensor([one.attention_mask for one in read]),
            torch.from_numpy(sounds),
        ).numpy()
    golden |= {
        "compose_texts": np.array(TEXTS[:_GOLDEN]),
        "compose_sounds": sounds[:_GOLDEN],
        "compose_vectors": found[:_GOLDEN],
    }
    return {"compose_graph": require(GRAPH, found, wanted, TOLERANCES[check_precision(bundle.manifest.precision)])}


def share(graph: Path, other: Path) -> None:
    """Let every large tensor of ``graph`` that lies byte for byte in ``other``, in the same folder, be read there."""
    content = other.read_bytes()
    known = {tensor.raw_data for tensor in onnx.load_from_string(content).graph.initializer}
    model = onnx.load(str(graph))
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        offset = content.find(raw) if len(raw) >= _WORTH_IT and raw in known else -1
        if offset < 0:
            continue
        place = {"location": other.name, "offset": offset, "length": len(raw)}
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
    graph.write_bytes(model.SerializeToString())


def _dim(module: nn.Module) -> int:
    return int(module.a2t.layers[0].in_features)  # type: ignore[union-attr, index, arg-type]


def _sounds(count: int, dim: int) -> FloatArray:
    made = np.random.default_rng(7).standard_normal((count, dim))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)
