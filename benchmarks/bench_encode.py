"""How fast are the starter's towers on one CPU core, and how long does loading take?"""

from __future__ import annotations

import json
from statistics import median

import numpy as np
import pytest

from benchmarks.targets import judge
from engine.bundle import open_bundle
from engine.encoders import BATCH_WINDOWS, OnnxAudioEncoder, OnnxEncoders, OnnxTextEncoder

TEXTS = (
    "dog",
    "a dog is barking in the distance",
    "rain on a tin roof while thunder rumbles far away and a car passes by",
)


@pytest.mark.parametrize("batch", [8, BATCH_WINDOWS])
def test_audio_tower_one_core(benchmark, batch: int) -> None:
    """Waveform to vectors, log-mel included, 8 at once and as many as the pipeline; x real time of window audio."""
    bundle = open_bundle("starter")
    encoder = OnnxAudioEncoder(bundle, "cpu", threads=1)
    space = bundle.manifest.space
    windows = np.random.default_rng(0).uniform(-0.3, 0.3, (batch, space.window_samples)).astype(np.float32)
    benchmark.pedantic(lambda: encoder.session.run({"samples": windows}), rounds=30, warmup_rounds=3)
    audio_s = batch * space.window_s
    times_s = sorted(benchmark.stats.stats.data)
    rates = [round(audio_s / value) for value in (times_s[-1], median(times_s), times_s[0])]
    benchmark.extra_info["x_real_time_min_median_max"] = rates
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    if batch == 8:
        judge(benchmark, {"audio tower": audio_s / median(times_s)})


@pytest.mark.parametrize("text", TEXTS, ids=["one word", "seven words", "fifteen words"])
def test_text_tower_one_core(benchmark, text: str) -> None:
    """One query, tokens included."""
    encoder = OnnxTextEncoder(open_bundle("starter"), "cpu", threads=1)
    benchmark.pedantic(lambda: encoder.encode_text([text]), rounds=200, warmup_rounds=20)
    if not benchmark.disabled:
        judge(benchmark, {"text tower": median(benchmark.stats.stats.data) * 1000})


@pytest.mark.parametrize("tower", ["audio", "text"])
def test_load_with_self_test(benchmark, tower: str) -> None:
    """From the folder to a tower that has passed its self-test."""
    benchmark.pedantic(lambda: getattr(OnnxEncoders(open_bundle("starter"), "cpu"), tower), rounds=5, warmup_rounds=1)
    if not benchmark.disabled:
        judge(benchmark, {"load": median(benchmark.stats.stats.data)})
