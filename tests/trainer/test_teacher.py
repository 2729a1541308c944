"""The dequantised tagger against TensorFlow Lite itself; skipped where the teacher is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from exporters.parity import probes
from exporters.towers import AudioConfig, AudioTower
from trainer.synth import KINDS, synthesise
from trainer.teacher import CLASSES, plain_words, read_yamnet

TFLITE = Path(__file__).parents[3] / "shared" / "data" / "teacher" / "yamnet_spectra_in.tflite"


@pytest.mark.skipif(not TFLITE.is_file(), reason="no ../shared/data: the teacher is not here")
@pytest.mark.filterwarnings("ignore")
def test_the_float_network_is_the_int8_one():
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(TFLITE))
    interpreter.allocate_tensors()
    config = AudioConfig()
    tower = AudioTower(config).eval()
    missing = tower.load_state_dict(read_yamnet(TFLITE), strict=False)
    assert not missing.unexpected_keys
    made = [synthesise(kind, np.random.default_rng(1))[: config.window_samples] for kind in KINDS]
    sounds = torch.from_numpy(np.stack([*made, *probes(config.window_samples, 16_000).values()]))
    with torch.inference_mode():
        mels = tower.front(sounds)
        found = torch.sigmoid(tower.classifier(tower.hear(mels)))[:, 0].numpy()
    wanted = []
    for patch in mels[:, : config.patch_frames].numpy():
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], patch[None])
        interpreter.invoke()
        wanted.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    assert found.shape == (len(sounds), CLASSES)
    # Its outputs come in steps of 1/256 and its activations are int8, so they differ here and there by several steps.
    assert np.abs(found - np.array(wanted)).mean() < 2e-3
    assert np.corrcoef(found.ravel(), np.array(wanted).ravel())[0, 1] > 0.99


def test_plain_words_are_words():
    words = plain_words()
    assert {"dog", "zipper", "rain"} <= set(words)
    assert all(word.isalpha() and len(word) >= 3 for word in words)
    assert len(words) > 15_000
