"""Sounds of different kinds spliced into files of a minute: is the moment where the sound is?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import soundfile

from earshot import Library
from engine.audio import read_samples
from tests.quality.conftest import Clip

PARTS, PART_S, RATE_HZ = 6, 10.0, 32_000
FILES = 15
OVERLAP_FLOOR, IOU_FLOOR = 0.70, 0.4


@dataclass(frozen=True)
class Part:
    file: Path
    label: str
    start_s: float

    def iou(self, start_s: float, end_s: float) -> float:
        """Intersection over union with a stretch of time."""
        inside = max(0.0, min(end_s, self.start_s + PART_S) - max(start_s, self.start_s))
        return inside / (PART_S + (end_s - start_s) - inside)


def splice(clips: list[Clip], folder: Path) -> list[Part]:
    """One-minute files of six kinds, each kind's clip repeated to 10 s; every kind is used twice."""
    rng = np.random.default_rng(0)
    kinds = sorted({clip.label for clip in clips})
    order = [str(kind) for _ in range(FILES * PARTS // len(kinds) + 1) for kind in rng.permutation(kinds)]
    parts = []
    for number in range(FILES):
        path = folder / f"{number:02}.flac"
        chosen = order[number * PARTS : (number + 1) * PARTS]
        signals = []
        for place, kind in enumerate(chosen):
            clip = rng.choice(np.array([c.path for c in clips if c.label == kind], dtype=object))
            signals.append(np.resize(read_samples(clip, RATE_HZ), round(PART_S * RATE_HZ)))
            parts.append(Part(path, kind, place * PART_S))
        soundfile.write(path, np.concatenate(signals), RATE_HZ)
    return parts


@pytest.mark.timeout(300)
def test_the_moment_is_where_the_sound_is(dev_clips: list[Clip], tmp_path: Path):
    parts = splice(dev_clips, tmp_path)
    with Library(tmp_path / "library", device="cpu") as library:
        library.index([tmp_path])
        ious = []
        for part in parts:
            [moment] = library.search(
                part.label, k=1, filters=[f"path~{part.file.name}"], min_relevance=0, by="meaning"
            )
            ious.append(part.iou(moment.start_s, moment.end_s))
    overlapping = sum(iou > 0 for iou in ious) / len(ious)
    assert overlapping >= OVERLAP_FLOOR, f"{overlapping:.0%} overlap, median IoU {median(ious):.2f}"
    assert median(ious) >= IOU_FLOOR, f"{overlapping:.0%} overlap, median IoU {median(ious):.2f}"
