"""Stages kept on disk: what is slow and always the same is worked out once, and packed small.

Texts with their teacher vectors are float16; log-mels of all clips lie end to end in one float16 array.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine import windows
from engine.types import FloatArray
from exporters.frontend import LogMel, frames_of
from exporters.towers import AudioConfig
from trainer.waveforms import sync_folder


@dataclass(frozen=True, slots=True)
class TextTable:
    """Texts with their teacher vectors ``[n, 384]`` float16, unit length."""

    texts: list[str]
    vectors: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class MelTable:
    """Log-mels ``[frames, mels]`` float16 of all clips; clip i is ``frames[starts[i]:starts[i + 1]]``."""

    frames: NDArray[np.float16]
    starts: NDArray[np.int64]

    def clip(self, index: int) -> NDArray[np.float16]:
        """``[frames of the clip, mels]``."""
        return self.frames[self.starts[index] : self.starts[index + 1]]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def and_then(self, other: MelTable) -> MelTable:
        """The clips of both, in memory."""
        starts = np.concatenate([self.starts, self.starts[-1] + other.starts[1:]])
        return MelTable(np.concatenate([self.frames, other.frames]), starts)


def text_table(folder: Path, texts: Sequence[str], encode: Callable[[list[str]], FloatArray]) -> TextTable:
    """The table kept in ``folder/texts.npz``; only texts that it doesn't hold yet are encoded.

    ``encode``: texts -> unit vectors ``[n, 384]``.
    """
    path = folder / "texts.npz"
    known: dict[str, NDArray[np.float16]] = {}
    if path.is_file():
        with np.load(path) as kept:
            known = dict(zip(json.loads(kept["texts"].tobytes()), kept["vectors"], strict=True))
    fresh = [text for text in dict.fromkeys(texts) if text not in known]
    if fresh:
        known.update(zip(fresh, encode(fresh).astype(np.float16), strict=True))
    table = TextTable(list(texts), np.stack([known[text] for text in texts]))
    if fresh:
        told = np.frombuffer(json.dumps(table.texts).encode(), np.uint8)
        write_atomic(path, lambda draft: save_arrays(draft, texts=told, vectors=table.vectors))
    return table


def mel_table(folder: Path, key: str, clips: Sequence[Callable[[], FloatArray]], config: AudioConfig) -> MelTable:
    """Log-mels of ``clips`` (each gives samples ``[n]``), kept in ``folder/mels-<key>.*.npy``."""
    frames_path, starts_path = folder / f"mels-{key}.frames.npy", folder / f"mels-{key}.starts.npy"
    if starts_path.is_file() and len(np.load(starts_path)) == len(clips) + 1:
        return MelTable(np.load(frames_path, mmap_mode="r"), np.load(starts_path))
    front = LogMel(config.front)
    parts = []
    with torch.inference_mode():
        for samples in clips:
            parts.append(front(torch.from_numpy(samples())[None])[0].numpy().astype(np.float16))
    starts = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
    write_atomic(frames_path, lambda path: save_array(path, np.concatenate(parts)))
    write_atomic(starts_path, lambda path: save_array(path, starts))
    return MelTable(np.load(frames_path, mmap_mode="r"), starts)


def window_starts(frames: int, config: AudioConfig) -> list[int]:
    """First frames of a clip's windows, as ``engine.windows.cut`` would place them (to the nearest frame)."""
    size, hop = frames_of(config.window_samples, config.front), config.hop_samples // config.front.hop_samples
    return windows.window_starts(frames, size, hop)


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """``np.save`` to exactly this path (it would add a suffix)."""
    with path.open("wb") as stream:
        np.save(stream, array)


def save_arrays(path: Path, **arrays: NDArray[np.generic]) -> None:
    """``np.savez`` to exactly this path."""
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside ``path``, flush to the disk, rename: killed at any moment, ``path`` is whole or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    try:
        write(draft)
        with draft.open("rb+") as stream:
            os.fsync(stream.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    draft.replace(path)
    sync_folder(path.parent)
