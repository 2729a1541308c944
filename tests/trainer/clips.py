"""Small sound files and manifests to learn from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from trainer.examples import Example

RATE_HZ = 8000


def write_clip(path: Path, samples: int, seed: int = 0, level: float = 0.5) -> Path:
    """Noise of so many samples, peak at most ``level``, as float wav."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, samples]).uniform(-level, level, samples)
    soundfile.write(path, noise.astype(np.float32), RATE_HZ, subtype="FLOAT")
    return path


def examples_of(folder: Path, lengths: Iterable[int]) -> list[Example]:
    """A clip of each length, all different."""
    return [
        Example(f"{number}.wav", write_clip(folder / f"{number}.wav", length, seed=number))
        for number, length in enumerate(lengths)
    ]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """A JSONL file; texts are written as they are."""
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
