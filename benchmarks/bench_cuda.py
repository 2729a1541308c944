"""How fast is a card? Ours in onnxruntime on CUDA, against the same weights in torch, eagerly and compiled.

HTSAT at full size with random weights, and the starter; batches as the pipeline makes them, samples in and vectors out
on the CPU, so that all copies count. In torch HTSAT is ``transformers``' behind its feature extractor, and float16 is
autocast. Skips, saying why, where onnxruntime or torch has no card:
``pytest benchmarks/bench_cuda.py --benchmark-enable -s --benchmark-json=build/cuda.json``.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import ClapFeatureExtractor, ClapModel

from benchmarks.sounds import write_noise
from benchmarks.turns import in_turns
from engine.audio import read_samples
from engine.bundle import STARTER_DIR, open_bundle
from engine.encoders import BATCH_WINDOWS, OnnxAudioEncoder
from engine.session import cpu_count, why_no_cuda
from engine.types import FloatArray, Space
from engine.windows import cut
from exporters.amend import amend
from exporters.base import load_base
from exporters.export import write_unchecked
from exporters.registry import load_source
from exporters.source import Source
from exporters.tuning import tune
from tests.exporters import checkpoints

FILES, FILE_S, ROUNDS, WARM_UPS = 64, 10.0, 20, 5
PRECISIONS: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
#: Two ways' vectors of one window that have less in common than this are not of the same weights.
LEAST_COSINE = 0.99
Way = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Contest:
    """One model: its bundles by precision, and in torch ``module(*prepare(windows)) -> [n, dim]``."""

    bundles: Mapping[str, Path]
    module: nn.Module
    prepare: Callable[[FloatArray], Sequence[Tensor]]


class Sounds(nn.Module):
    """``transformers``' tower for sound, without its extractor."""

    def __init__(self, model: ClapModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor, is_longer: Tensor) -> Tensor:
        """Log-mels ``[n, 1, frames, mels]``, ``[n, 1] -> [n, dim]``."""
        found: Tensor = self.model.get_audio_features(features, is_longer=is_longer).pooler_output
        return found


def htsat(folder: Path, depths: Sequence[int] = (2, 2, 6, 2)) -> Contest:
    """LAION's HTSAT, its checkpoint and bundles in ``folder``."""
    checkpoints.laion(folder / "checkpoint", depths=depths)
    extractor = ClapFeatureExtractor.from_pretrained(folder / "checkpoint")

    def prepare(windows: FloatArray) -> Sequence[Tensor]:
        found = extractor(list(windows), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        return found["input_features"].float(), found["is_longer"]

    model = ClapModel.from_pretrained(folder / "checkpoint").eval()
    return Contest(bundles_of(load_source(folder / "checkpoint"), folder), Sounds(model), prepare)


def starter(folder: Path, base: Path = STARTER_DIR) -> Contest:
    """The starter, or another base of its family, its bundles in ``folder``."""
    source = load_base(base)
    assert source.audio is not None
    return Contest(bundles_of(source, folder), source.audio.module, lambda windows: [torch.from_numpy(windows)])


CONTESTS: Mapping[str, Callable[[Path], Contest]] = {"htsat": htsat, "starter": starter}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", CONTESTS)
def test_a_card(benchmark, tmp_path: Path, request: pytest.FixtureRequest, model: str, precision: str) -> None:
    """Clips and hours of sound a second, with and without decoding."""
    if missing := why_not():
        pytest.skip(missing)
    if not request.config.getoption("benchmark_enable"):
        pytest.skip("takes minutes: --benchmark-enable")
    contest = CONTESTS[model](tmp_path)
    bundle = contest.bundles[precision]
    audio = open_bundle(bundle).manifest.audio
    assert audio is not None
    amend(bundle, {"cuda": tune(bundle, audio)})
    files = [tmp_path / f"{number}.flac" for number in range(FILES)]
    for number, file in enumerate(files):
        write_noise(file, FILE_S, 44_100, 2, seed=number)
    ways = contestants(contest, precision, "cuda")
    benchmark.extra_info.update(card())
    benchmark.extra_info["options"] = asdict(open_bundle(bundle).manifest.cuda[audio.graph])
    benchmark.extra_info.update(measured(ways, open_bundle(bundle).manifest.space, files, contest))
    windows = some_windows(open_bundle(bundle).manifest.space)
    benchmark.pedantic(lambda: ways["ours"](windows), rounds=ROUNDS, warmup_rounds=WARM_UPS)
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")


def why_not() -> str:
    """Empty where both sides can run on a card, otherwise the reason why not."""
    return why_no_cuda() or ("" if torch.cuda.is_available() else "this torch has no CUDA")


def card() -> dict[str, str]:
    """The card, its driver and memory, versions, and the day."""
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    name, driver, memory = said.split(", ")
    libraries = {library: version(library) for library in ("onnxruntime-gpu", "torch", "transformers")}
    cuda, cudnn = torch.version.cuda, torch.backends.cudnn.version()
    return {
        "card": name,
        "driver": driver,
        "memory": memory,
        "torch's CUDA": f"{cuda}, cuDNN {cudnn}",
        **libraries,
        "day": datetime.now(UTC).date().isoformat(),
    }


def contestants(contest: Contest, precision: str, device: str, backend: str = "inductor") -> dict[str, Way]:
    """Each way from windows on the CPU to vectors on the CPU. Raises ``DeviceError`` where ours does not bind."""
    encoder = OnnxAudioEncoder(open_bundle(contest.bundles[precision]), device)  # type: ignore[arg-type]
    module = contest.module.to(device)

    def in_torch(run: Callable[..., Tensor]) -> Way:
        @torch.inference_mode()
        def way(windows: FloatArray) -> FloatArray:
            inputs = [one.to(device) for one in contest.prepare(windows)]
            with torch.autocast(device, torch.float16, enabled=precision == "fp16"):
                return np.asarray(run(*inputs).float().cpu().numpy())

        return way

    compiled = torch.compile(module, backend=backend)
    return {"ours": encoder.encode_audio, "eager": in_torch(module), "compiled": in_torch(compiled)}


def measured(
    ways: Mapping[str, Way],
    space: Space,
    files: Sequence[Path],
    contest: Contest,
    rounds: int = ROUNDS,
    warm_ups: int = WARM_UPS,
) -> dict[str, dict[str, float]]:
    """Clips and hours of sound a second: windows of noise in batches, then files that are decoded first.

    Raises ``ValueError`` where two ways don't say the same.
    """
    windows = some_windows(space)
    require_same({name: way(windows) for name, way in ways.items()})
    alone = {**ways, "of torch's, what comes before its network": contest.prepare}
    took = in_turns(alone, windows, rounds, warm_ups)
    whole = {name: lambda files, way=way: heard(way, files, space) for name, way in ways.items()}
    read = {**whole, "decoding alone": lambda files: sum(1 for _ in decoded(files, space))}
    with_files = in_turns(read, files, max(1, rounds // 5))
    return {
        "clips/s": {name: round(len(windows) / s, 1) for name, s in took.items()},
        "audio-hours/s": {name: round(len(windows) * space.window_s / 3600 / s, 3) for name, s in took.items()},
        "files/s, decoded first": {name: round(len(files) / s, 1) for name, s in with_files.items()},
        "audio-hours/s, decoded first": {
            name: round(len(files) * FILE_S / 3600 / s, 3) for name, s in with_files.items()
        },
    }


def some_windows(space: Space) -> FloatArray:
    """A batch ``[BATCH_WINDOWS, window_samples]`` of noise."""
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (BATCH_WINDOWS, space.window_samples))
    return np.asarray(noise, np.float32)


def require_same(vectors: Mapping[str, FloatArray]) -> None:
    """Raise ``ValueError`` unless all ways' vectors ``[n, dim]`` point the same way, row by row."""
    first, *others = [(name, rows / np.linalg.norm(rows, axis=1, keepdims=True)) for name, rows in vectors.items()]
    for name, rows in others:
        least = float((first[1] * rows).sum(1).min())
        if not least >= LEAST_COSINE:
            raise ValueError(f"found {name} at a cosine of {least:.4f} from {first[0]}, expected {LEAST_COSINE}")


def heard(way: Way, files: Sequence[Path], space: Space) -> int:
    """How many windows of the files were encoded, in full batches, while the next files are being decoded."""
    windows, count = decoded(files, space), 0
    while batch := list(islice(windows, BATCH_WINDOWS)):
        full = [*batch, *[batch[-1]] * (BATCH_WINDOWS - len(batch))]  # as the pipeline does: one shape for all
        way(np.stack(full))
        count += len(batch)
    return count


def decoded(files: Iterable[Path], space: Space) -> Iterator[FloatArray]:
    """The files' windows, read by as many threads as there are cores."""
    with ThreadPoolExecutor(cpu_count()) as readers:
        for samples in readers.map(lambda file: read_samples(file, space.sample_rate_hz), files):
            yield from (window.samples for window in cut([samples], space))


def bundles_of(source: Source, folder: Path) -> dict[str, Path]:
    """The source's sounds as bundles in ``folder``, by precision."""
    made: dict[str, Path] = {}
    for precision in PRECISIONS:
        made[precision] = folder / precision
        made[precision].mkdir(parents=True)
        write_unchecked(replace(source, text=None, compose=None), made[precision], precision)
    return made
