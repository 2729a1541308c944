"""How fast are towers? The starter's on one CPU core, with loading; and a published CLAP's against its libraries.

Of CLAP these are HTSAT and RoBERTa at full size with random weights, from the same folder, on the cores that there are,
in turns. Ours are the engine's encoders, samples and words in. ``transformers`` runs eagerly behind its feature
extractor and tokenizer; ``sentence-transformers`` reads the same folder. Both pad texts asked together to the longest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from benchmarks.targets import judge
from benchmarks.turns import Ways, in_turns
from engine.bundle import open_bundle
from engine.encoders import BATCH_WINDOWS, OnnxAudioEncoder, OnnxEncoders, OnnxTextEncoder
from engine.session import cpu_count
from exporters.export import write_unchecked
from exporters.registry import load_source
from tests.exporters import checkpoints

TEXTS = (
    "dog",
    "a dog is barking in the distance",
    "rain on a tin roof while thunder rumbles far away and a car passes by",
)
RATE_HZ, WINDOW, ROUNDS = 48_000, 480_000, 5
CLAP_TEXTS = [
    "rain",
    "a dog is barking in the distance",
    "someone types on a keyboard while a fan hums and a door closes",
] * 3


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A checkpoint, and beside it its bundles in fp32 and int8."""
    if not request.config.getoption("benchmark_enable"):
        pytest.skip("takes minutes: --benchmark-enable")
    threads = torch.get_num_threads()
    torch.set_num_threads(cpu_count())
    made = tmp_path_factory.mktemp("clap")
    checkpoints.laion(made / "checkpoint", depths=(2, 2, 6, 2), layers=12, pieces=50_265)
    source = load_source(made / "checkpoint")
    for precision in ("fp32", "int8"):
        (made / precision).mkdir()
        write_unchecked(source, made / precision, precision)  # type: ignore[arg-type]
    yield made
    torch.set_num_threads(threads)


@pytest.mark.parametrize("batch", [1, 8])
def test_clap_sounds(benchmark, folder: Path, batch: int) -> None:
    """Samples to vectors, per clip of 10 s, log-mels included."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (batch, WINDOW)).astype(np.float32)
    ours = {precision: OnnxAudioEncoder(open_bundle(folder / precision), "cpu") for precision in ("fp32", "int8")}
    model, extractor = _transformers(folder), ClapFeatureExtractor.from_pretrained(folder / "checkpoint")
    sentence = SentenceTransformer(str(folder / "checkpoint"), device="cpu")

    @torch.inference_mode()
    def theirs(sounds: np.ndarray) -> None:
        model.get_audio_features(**extractor(list(sounds), sampling_rate=RATE_HZ, return_tensors="pt"))

    ways: Ways = {
        "ours fp32": ours["fp32"].encode_audio,
        "ours int8": ours["int8"].encode_audio,
        "transformers": theirs,
        "of that, its feature extractor": lambda sounds: extractor(list(sounds), sampling_rate=RATE_HZ),
        "sentence-transformers": lambda sounds: sentence.encode(
            list(sounds), batch_size=batch, show_progress_bar=False
        ),
    }
    took = in_turns(ways, samples, ROUNDS)
    benchmark.pedantic(lambda: ours["fp32"].encode_audio(samples), rounds=ROUNDS)
    work = _gflop(folder)
    benchmark.extra_info["ms a clip"] = {name: round(1e3 * seconds / batch, 1) for name, seconds in took.items()}
    benchmark.extra_info["GFLOP a clip"] = round(work, 2)
    benchmark.extra_info["GFLOP/s, ours fp32"] = round(work * batch / took["ours fp32"])
    benchmark.extra_info["GFLOP/s, one large product"] = round(_peak())
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    peer = min(took["transformers"], took["sentence-transformers"])
    judge(benchmark, {"clap fp32": peer / took["ours fp32"], "clap int8": peer / took["ours int8"]})


@pytest.mark.parametrize("batch", [1, 9])
def test_clap_words(benchmark, folder: Path, batch: int) -> None:
    """Texts to vectors, tokens included."""
    reader = AutoTokenizer.from_pretrained(folder / "checkpoint")
    ours = {precision: OnnxTextEncoder(open_bundle(folder / precision), "cpu") for precision in ("fp32", "int8")}
    model = _transformers(folder)
    sentence = SentenceTransformer(str(folder / "checkpoint"), device="cpu")

    @torch.inference_mode()
    def theirs(texts: list[str]) -> None:
        model.get_text_features(**reader(texts, padding=True, return_tensors="pt"))

    ways: Ways = {
        "ours fp32": ours["fp32"].encode_text,
        "ours int8": ours["int8"].encode_text,
        "transformers": theirs,
        "sentence-transformers": lambda texts: sentence.encode(texts, batch_size=batch),
    }
    texts = CLAP_TEXTS[1:2] if batch == 1 else CLAP_TEXTS
    took = in_turns(ways, texts, ROUNDS)
    benchmark.pedantic(lambda: ours["fp32"].encode_text(texts), rounds=ROUNDS)
    benchmark.extra_info["ms a text"] = {name: round(1e3 * seconds / batch, 2) for name, seconds in took.items()}
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    judge(benchmark, {"clap text": min(took["transformers"], took["sentence-transformers"]) / took["ours fp32"]})


def _transformers(folder: Path) -> ClapModel:
    return ClapModel.from_pretrained(folder / "checkpoint").eval()


def _gflop(folder: Path) -> float:
    """Multiplications and additions of one clip, in 10^9."""
    audio = load_source(folder / "checkpoint").audio
    assert audio is not None
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        audio.module(torch.zeros(1, WINDOW))
    return counter.get_total_flops() / 1e9


def _peak() -> float:
    """GFLOP/s of a float32 product of 2048 x 2048 matrices, the best of five."""
    a, b = torch.randn(2, 2048, 2048)
    times = []
    for _ in range(6):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * 2048**3 / min(times[1:]) / 1e9
