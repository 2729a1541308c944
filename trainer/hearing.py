"""What the audio tower practises on: windows of clips, alone and mixed, levelled, as the teacher's trunk hears them.

The trunk is the teacher's own and stays as it is, so each view is heard once and its features are kept: the rest of
the tower then learns from them in minutes. Augmentation works on log-mels, where gain and filters are sums and a
mixture is a sum of powers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from trainer.devices import device_of

MOST_WINDOWS = 12  # of one clip: long recordings must not outweigh short ones
MOST_MIXED = 3  # sounds in one view
MIX_SHARE = 0.6  # of augmented views, the others are one sound changed
THREE_SHARE = 1 / 3  # of the mixtures, the others are of two
LOUDER_DB = 12.0  # the most that a sound of a mixture is louder or fainter than its first
GAIN_DB = (-24.0, 6.0)
FILTER_DB = 9.0
BATCH = 32
#: What float16 leaves of silence in a log-mel; made louder to balance a mixture, it would be a sound.
ROUNDING = 1e-5
NO_POWER = 1e-9  # what is left of a silent window


@dataclass(frozen=True, slots=True)
class Views:
    """Windows heard: which ``clips [n, 3]`` sound in each (-1: none) and their ``shares [n, 3]`` of its power, all 0
    where it is silent.

    ``features [n, patches, channels]`` float16 is what the trunk makes of them.
    """

    clips: NDArray[np.int64]
    shares: FloatArray
    features: NDArray[np.float16]

    @classmethod
    def alone(
        cls, clips: NDArray[np.int64], features: NDArray[np.float16], silent: NDArray[np.bool_] | None = None
    ) -> Views:
        """Windows of one clip each, ``clips [n]``; which are ``silent [n]``, or none."""
        others = (len(clips), MOST_MIXED - 1)
        heard = np.ones(len(clips), bool) if silent is None else ~silent
        shares = np.concatenate([heard[:, None].astype(np.float32), np.zeros(others, np.float32)], axis=1)
        return cls(np.concatenate([clips[:, None], np.full(others, -1)], axis=1), shares, features)

    @property
    def first(self) -> NDArray[np.int64]:
        """Each view's first clip ``[n]``, of which others are mixtures: the only one where it is alone."""
        return self.clips[:, 0]

    def only(self, clips: NDArray[np.bool_]) -> Views:
        """The views whose first clip is among ``clips [clips]``."""
        kept = clips[self.first]
        return Views(self.clips[kept], self.shares[kept], self.features[kept])


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
    """Each clip's own windows, unchanged; kept in ``path``."""
    windows = clean_windows(mels, tower.config)
    size, offset = frames_of(tower.config.window_samples, tower.config.front), tower.config.front.offset

    def view(number: int) -> FloatArray:
        clip, start = windows[number]
        return np.asarray(mels.clip(clip)[start : start + size], np.float32)

    if not _holds(path, len(windows)):
        features = _heard(tower, len(windows), view)
        write_atomic(path, lambda draft: save_array(draft, features))
    silent = np.array([_power(_magnitudes(view(number), offset)) <= NO_POWER for number in range(len(windows))])
    return Views.alone(np.array([clip for clip, _ in windows]), np.load(path), silent)


def hear_changed(
    mels: MelTable, clips: NDArray[np.int64], count: int, tower: AudioTower, path: Path, seed: int
) -> Views:
    """``count`` windows of random ``clips``: filtered, louder or fainter, and more often than not two or three mixed.

    Kept in ``path``, and the shares in its ``.share`` twin.
    """
    sounding = _drawn(clips, count, seed)
    shares_path = path.with_suffix(".share.npy")
    shares = np.zeros(sounding.shape, np.float32)

    def view(number: int) -> FloatArray:
        mixed, shares[number] = _mixture(mels, sounding[number], tower.config, np.random.default_rng([seed, number]))
        return mixed

    if not (_holds(path, count) and _holds(shares_path, count, MOST_MIXED)):
        features = _heard(tower, count, view)
        write_atomic(shares_path, lambda draft: save_array(draft, shares))
        write_atomic(path, lambda draft: save_array(draft, features))
    return Views(sounding, np.load(shares_path), np.load(path))


def _drawn(clips: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Random ``clips`` that sound together, one to three of them a view, ``[count, 3]`` with -1 for none."""
    chance = np.random.default_rng(seed)
    drawn, luck = chance.choice(clips, (count, MOST_MIXED)), chance.random(count)
    sounds = 1 + (luck < MIX_SHARE).astype(int) + (luck < MIX_SHARE * THREE_SHARE)
    return np.where(np.arange(MOST_MIXED) < sounds[:, None], drawn, -1)


def _mixture(
    mels: MelTable, clips: NDArray[np.int64], config: AudioConfig, chance: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """The log-mels of ``clips [3]`` together, each filtered by chance, and each one's share ``[3]`` of the power.

    Levels are by chance, too, about that of the first that isn't silent.
    """
    size, offset = frames_of(config.window_samples, config.front), config.front.offset
    sounds = [_filtered(_cut(mels, clip, size, chance), offset, chance) for clip in clips if clip >= 0]
    audible = [sound for sound in sounds if _power(sound) > NO_POWER]
    for other in audible[1:]:
        level = 10 ** (chance.uniform(-LOUDER_DB, LOUDER_DB) / 20)
        other *= level * np.sqrt(_power(audible[0]) / _power(other))
    powers = np.array([_power(sound) for sound in sounds] + [0.0] * (MOST_MIXED - len(sounds)))
    shares = powers / powers.sum() if audible else powers
    gain = 10 ** (chance.uniform(*GAIN_DB) / 20)
    mixed = gain * np.sqrt(sum(sound**2 for sound in sounds))
    return np.asarray(np.log(mixed + offset), np.float32), shares.astype(np.float32)


def _cut(mels: MelTable, clip: int, size: int, chance: np.random.Generator) -> FloatArray:
    """A random window's log-mels."""
    frames = mels.clip(clip)
    start = int(chance.integers(len(frames) - size + 1))
    return np.asarray(frames[start : start + size], np.float32)


def _filtered(log_mels: FloatArray, offset: float, chance: np.random.Generator) -> FloatArray:
    """Log-mels -> mel magnitudes through a random smooth filter of at most ``FILTER_DB``."""
    magnitudes = _magnitudes(log_mels, offset)
    knots = chance.uniform(-FILTER_DB, FILTER_DB, 5)
    curve = np.interp(np.linspace(0, 4, log_mels.shape[1]), np.arange(5), knots)
    return np.asarray(magnitudes * 10 ** (curve / 20), np.float32)


def _magnitudes(log_mels: FloatArray, offset: float) -> FloatArray:
    """Log-mels -> mel magnitudes, none where rounding alone made them."""
    magnitudes = np.exp(log_mels) - offset
    magnitudes[magnitudes < ROUNDING] = 0
    return np.asarray(magnitudes, np.float32)


def _power(magnitudes: FloatArray) -> float:
    """Of a whole window."""
    return float((magnitudes**2).sum())


def _heard(tower: AudioTower, count: int, view: Callable[[int], FloatArray]) -> NDArray[np.float16]:
    """The trunk's features ``[count, patches, channels]`` of each ``view``'s log-mels, levelled as in use."""
    features = []
    for start in range(0, count, BATCH):
        mels = np.stack([view(number) for number in range(start, min(start + BATCH, count))])
        with torch.inference_mode():
            heard = tower.hear(tower.levelled(torch.from_numpy(mels).to(device_of(tower))))
        features.append(heard.cpu().numpy().astype(np.float16))
    return np.concatenate(features)


def _holds(path: Path, *shape: int) -> bool:
    """Whether an array that begins with this shape is kept in ``path``."""
    return path.is_file() and np.load(path, mmap_mode="r").shape[: len(shape)] == shape
