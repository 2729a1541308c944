"""What does loading cost in training? The loader alone, and beside a bare forward and backward of the starter's towers.

192 clips of 10 s at 32 kHz, flac and ogg. The bare steps get the same batch again and again, so all that
loading costs is in the difference: epochs of both in turns, after the first, in which all is decoded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.sounds import write
from benchmarks.targets import judge
from engine.session import cpu_count
from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower
from trainer.examples import Example
from trainer.loader import Loader
from trainer.losses import soft_contrast

CLIPS, SECONDS, RATE_HZ, BATCH, ROUNDS, PIECES = 192, 10, 32_000, 32, 5, 16
CONFIG = AudioConfig()


@pytest.fixture
def examples(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[list[Example]]:
    """Clips of noise; torch gets all cores."""
    if not request.config.getoption("benchmark_enable"):
        pytest.skip("takes minutes: --benchmark-enable")
    threads = torch.get_num_threads()
    torch.set_num_threads(cpu_count())
    made = []
    for number in range(CLIPS):
        noise = 0.1 * np.random.default_rng(number).standard_normal((SECONDS * RATE_HZ, 1)).astype(np.float32)
        path = tmp_path / f"{number:03}.{('flac', 'ogg')[number % 2]}"
        write(path, noise, RATE_HZ)
        made.append(Example(path.name, path))
    yield made
    torch.set_num_threads(threads)


@pytest.mark.timeout(1800)
def test_loading_beside_the_starters_towers(benchmark, examples: list[Example], tmp_path: Path) -> None:
    """Seconds an epoch, towers only and with the loader."""
    started = time.perf_counter()
    loader = Loader(
        examples,
        sample_rate_hz=CONFIG.front.sample_rate_hz,
        window_samples=CONFIG.window_samples,
        batch=BATCH,
        seed=0,
        cache=tmp_path / "cache",
    )
    decode_s = time.perf_counter() - started
    step = _step()
    same = next(iter(loader)).samples
    loader.set_epoch(1)
    ways: dict[str, Callable[[], object]] = {
        "loader": lambda: [batch.samples for batch in loader],
        "towers": lambda: [step(same) for _ in range(len(loader))],
        "both": lambda: [step(batch.samples) for batch in loader],
    }
    took: dict[str, list[float]] = {name: [] for name in ways}

    def in_turns() -> None:
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            took[name].append(time.perf_counter() - began)

    benchmark.pedantic(in_turns, rounds=ROUNDS, warmup_rounds=1)
    clips = len(loader) * BATCH
    for name, found in took.items():
        benchmark.extra_info[f"{name}_clips_per_s"] = round(clips / median(found[1:]), 1)
    benchmark.extra_info["first_epoch_decodes_clips_per_s"] = round(CLIPS / decode_s, 1)
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    shares = [both / bare - 1 for both, bare in zip(took["both"][1:], took["towers"][1:], strict=True)]
    judge(benchmark, {"loader share": 100 * median(shares)})


def _step() -> Callable[[Tensor], None]:
    """A forward and backward of both towers, random weights, on samples ``[batch, window_samples]``."""
    torch.manual_seed(0)
    audio, text = AudioTower(CONFIG), TextTower(TextConfig())
    pieces = torch.randint(0, TextConfig().pieces, (BATCH, PIECES))
    mask, belief = torch.ones_like(pieces), torch.ones(BATCH)

    def step(samples: Tensor) -> None:
        for tower in (audio, text):
            tower.zero_grad(set_to_none=True)
        soft_contrast(audio(samples), text(pieces, mask), belief, 20.0, 15.0).backward()

    return step
