"""What does loading cost in training? The loader alone, and beside a bare forward and backward of the starter's towers.

192 clips of 10 s at 32 kHz, flac and ogg, all decoded in the first epoch, which is not measured. Then in turns a bare
step, always of the same batch, and one of a batch that is loaded: what disturbs one disturbs the other, and all that
loading costs is in the difference. Judged is the upper end of a 95 % interval of the pairs' median share.
"""

from __future__ import annotations

import json
import os
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
from trainer.loader import Batch, Loader
from trainer.losses import soft_contrast
from trainer.metrics import bootstrap

CLIPS, SECONDS, RATE_HZ, BATCH, STEPS, PIECES = 192, 10, 32_000, 8, 60, 16
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
    """Seconds of a step with loading."""
    busy, began = round(os.getloadavg()[0], 1), time.perf_counter()
    loader = Loader(
        examples,
        sample_rate_hz=CONFIG.front.sample_rate_hz,
        window_samples=CONFIG.window_samples,
        batch=BATCH,
        seed=0,
        cache=tmp_path / "cache",
    )
    first, same = _seconds_since(began), next(iter(loader)).samples
    began = time.perf_counter()
    alone = sum(len(batch.examples) for batch in loader) / _seconds_since(began)
    step, batches = _step(), _endless(loader)
    bare_s: list[float] = []

    def bare() -> None:
        began = time.perf_counter()
        step(same)
        bare_s.append(_seconds_since(began))

    benchmark.pedantic(lambda: step(next(batches).samples), setup=bare, rounds=STEPS, warmup_rounds=1)
    both_s, bare_s = benchmark.stats.stats.data, bare_s[1:]
    found = {"loader": alone, "towers": BATCH / median(bare_s), "both": BATCH / median(both_s)}
    benchmark.extra_info |= {f"{name}_clips_per_s": round(rate, 1) for name, rate in found.items()}
    benchmark.extra_info["first_epoch_decodes_clips_per_s"] = round(CLIPS / first, 1)
    benchmark.extra_info["others_at_work"] = busy
    shares = 100 * (np.array(both_s) / np.array(bare_s) - 1)
    low, high = bootstrap(shares, np.median)
    benchmark.extra_info["loader_share_percent"] = f"{median(shares):.1f} ({low:.1f} to {high:.1f})"
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
    judge(benchmark, {"loader share": high})


def _seconds_since(began: float) -> float:
    return time.perf_counter() - began


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


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
