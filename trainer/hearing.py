"""What the audio tower practises on: windows of clips, alone and mixed, levelled, as the teacher's trunk hears them.

The trunk is the teacher's own and stays as it is, so each view is heard once and its features are kept: the rest of
the tower then learns from them in minutes. Augmentation works on log-mels, where gain and filters are sums and a
mixture is a sum of powers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.types import FloatArray
from exporters.frontend import frames_of
from exporters.towers import AudioConfig, AudioTower
from trainer.cache import MelTable, save_array, window_starts, write_atomic

MOST_WINDOWS = 12  # of one clip: long recordings must not outweigh short ones
MIX_SHARE = 0.6  # of augmented views, the others are one sound changed
LOUDER_DB = 12.0  # the most that one sound of a mixture is louder than the other
GAIN_DB = (-24.0, 6.0)
FILTER_DB = 9.0
BATCH = 32
#: What float16 leaves of silence in a log-mel; made louder to balance a mixture, it would be a sound.
ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class Views:
    """Windows to hear: ``first [n]`` and ``second [n]`` clips (second -1: alone), ``share [n]`` of the first's power.

    ``features [n, patches, channels]`` float16 is what the trunk makes of them.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    share: FloatArray
    features: NDArray[np.float16]

    def only(self, clips: NDArray[np.bool_]) -> Views:
        """The views whose first clip is among ``clips [clips]``."""
        kept = clips[self.first]
        return Views(self.first[kept], self.second[kept], self.share[kept], self.features[kept])


def log_mel_batches(mels: MelTable, config: AudioConfig) -> Iterator[Tensor]:
    """One window of each clip, as batches ``[batch, frames, mels]``."""
    size = frames_of(config.window_samples, config.front)
    windows = [mels.clip(clip)[start : start + size] for clip, start in clean_windows(mels, config, most=1)]
    for start in range(0, len(windows), BATCH):
        yield torch.from_numpy(np.stack(windows[start : start + BATCH]).astype(np.float32))


def clean_windows(mels: MelTable, config: AudioConfig, most: int = MOST_WINDOWS) -> list[tuple[int, int]]:
    """(clip, first frame) of the windows that the engine would cut, evenly thinned to ``most`` a clip."""
    found = []
    for clip in range(len(mels)):
        starts = window_starts(len(mels.clip(clip)), config)
        chosen = np.unique(np.linspace(0, len(starts) - 1, min(most, len(starts))).round().astype(int))
        found += [(clip, starts[i]) for i in chosen]
    return found


def hear_clean(mels: MelTable, tower: AudioTower, path: Path) -> Views:
    """Each clip's own windows, unchanged."""
    windows = clean_windows(mels, tower.config)
    size = frames_of(tower.config.window_samples, tower.config.front)

    def view(number: int) -> tuple[FloatArray, float]:
        clip, start = windows[number]
        return np.asarray(mels.clip(clip)[start : start + size], np.float32), 1.0

    first = np.array([clip for clip, _ in windows])
    return _hear(first, np.full(len(first), -1), view, tower, path)


def hear_changed(
    mels: MelTable, clips: NDArray[np.int64], count: int, tower: AudioTower, path: Path, seed: int
) -> Views:
    """``count`` windows of random ``clips``: filtered, louder or fainter, and more often than not two mixed."""
    size, offset = frames_of(tower.config.window_samples, tower.config.front), tower.config.front.offset
    chance = np.random.default_rng(seed)
    first, second = chance.choice(clips, count), chance.choice(clips, count)
    second = np.where(chance.random(count) < MIX_SHARE, second, -1)

    def view(number: int) -> tuple[FloatArray, float]:
        own = np.random.default_rng([seed, number])
        one, other = (
            np.zeros((size, mels.frames.shape[1]), np.float32)
            if clip < 0
            else _filtered(_cut(mels, clip, size, own), offset, own)
            for clip in (first[number], second[number])
        )
        if second[number] >= 0:
            other *= _balance(one, other) * 10 ** (own.uniform(-LOUDER_DB, LOUDER_DB) / 20)
        power = float((one**2).sum()), float((other**2).sum())
        gain = 10 ** (own.uniform(*GAIN_DB) / 20)
        mixed = gain * np.sqrt(one**2 + other**2)
        return np.log(mixed + offset), power[0] / max(sum(power), 1e-12)

    return _hear(first, second, view, tower, path)


def _cut(mels: MelTable, clip: int, size: int, chance: np.random.Generator) -> FloatArray:
    """A random window's log-mels."""
    frames = mels.clip(clip)
    start = int(chance.integers(len(frames) - size + 1))
    return np.asarray(frames[start : start + size], np.float32)


def _filtered(log_mels: FloatArray, offset: float, chance: np.random.Generator) -> FloatArray:
    """Log-mels -> mel magnitudes through a random smooth filter of at most ``FILTER_DB``."""
    magnitudes = np.exp(log_mels) - offset
    magnitudes[magnitudes < ROUNDING] = 0
    knots = chance.uniform(-FILTER_DB, FILTER_DB, 5)
    curve = np.interp(np.linspace(0, 4, log_mels.shape[1]), np.arange(5), knots)
    return np.asarray(magnitudes * 10 ** (curve / 20), np.float32)


def _balance(one: FloatArray, other: FloatArray) -> float:
    """The gain that makes ``other`` as powerful as ``one``; 1 where either is silent."""
    wanted, found = float((one**2).sum()), float((other**2).sum())
    return float(np.sqrt(wanted / found)) if wanted > 1e-9 and found > 1e-9 else 1.0


def _hear(first, second, view, tower: AudioTower, path: Path) -> Views:  # type: ignore[no-untyped-def]
    """The views' features, kept in ``path`` and its ``.share`` twin."""
    shares_path = path.with_suffix(".share.npy")
    if not (path.is_file() and shares_path.is_file() and len(np.load(path, mmap_mode="r")) == len(first)):
        features, shares = [], []
        for start in range(0, len(first), BATCH):
            made = [view(number) for number in range(start, min(start + BATCH, len(first)))]
            with torch.inference_mode():
                heard = tower.hear(tower.levelled(torch.from_numpy(np.stack([mels for mels, _ in made]))))
            features.append(heard.numpy().astype(np.float16))
            shares += [share for _, share in made]
        write_atomic(shares_path, lambda draft: save_array(draft, np.array(shares, np.float32)))
        write_atomic(path, lambda draft: save_array(draft, np.concatenate(features)))
    return Views(first, second, np.load(shares_path), np.load(path))
