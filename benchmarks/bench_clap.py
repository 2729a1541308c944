"""How fast is a published CLAP as a bundle, against the libraries that publish it, with the same weights?

HTSAT and RoBERTa at full size with random weights, from the same folder, on the cores that there are, in turns. Ours
are the engine's encoders, samples and words in. ``transformers`` runs eagerly behind its feature extractor and
tokenizer; ``sentence-transformers`` reads the same folder. Both pad texts that are asked together to the longest.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

from benchmarks.targets import judge
from engine.bundle import open_bundle
from engine.encoders import OnnxAudioEncoder, OnnxTextEncoder
from engine.session import cpu_count
from exporters.export import write_unchecked
from exporters.registry import load_source
from tests.exporters import checkpoints

RATE_HZ, WINDOW, ROUNDS = 48_000, 480_000, 5
TEXTS = [
    "rain",
    "a dog is barking in the distance",
    "someone types on a keyboard while a fan hums and a door closes",
] * 3
Ways = Mapping[str, Callable[[Any], object]]


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
    took = _in_turns(benchmark, ways, samples)
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
    took = _in_turns(benchmark, ways, TEXTS[1:2] if batch == 1 else TEXTS)
    benchmark.extra_info["ms a text"] = {name: round(1e3 * seconds / batch, 2) for name, seconds in took.items()}
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    judge(benchmark, {"clap text": min(took["transformers"], took["sentence-transformers"]) / took["ours fp32"]})


def _transformers(folder: Path) -> ClapModel:
    return ClapModel.from_pretrained(folder / "checkpoint").eval()


def _in_turns(benchmark, ways: Ways, inputs: Any) -> dict[str, float]:
    """Median seconds of each way, one call of each a round; the first way's are the benchmark's own."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way(inputs)
            if number:  # the first call is a warm-up
                times[name].append(time.perf_counter() - began)
    first = next(iter(ways.values()))
    benchmark.pedantic(lambda: first(inputs), rounds=ROUNDS)
    return {name: median(values) for name, values in times.items()}


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
