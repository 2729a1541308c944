"""Which share makes the best moments? Real sounds of known kinds, spliced into files of a minute.

Clips of the train split beside the project, so that the dev split stays a verdict (tests/quality/test_moments.py).
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import soundfile

from earshot import Library
from engine import search
from engine.audio import read_samples

DATA = Path(__file__).parents[2] / "shared" / "data"
RATE_HZ, FILE_S = 32_000, 60.0
FILES = 40
PARTS_S = ((10.0,) * 6, (5.0, 15.0, 8.0, 12.0, 20.0), (20.0, 20.0, 20.0))
SHARES = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
KINDS = {
    "dog": "a dog barking",
    "rain": "rain",
    "sea_waves": "sea waves",
    "crying_baby": "a baby crying",
    "clock_tick": "a clock ticking",
    "sneezing": "sneezing",
    "chainsaw": "a chainsaw",
    "crackling_fire": "a crackling fire",
    "rooster": "a rooster crowing",
    "helicopter": "a helicopter",
    "cicada": "cicadas",
    "laser": "a laser gun",
    "leopard_roar": "a big cat roaring",
    "goat_bleat": "a goat bleating",
    "fireworks_pop": "fireworks",
    "thunder": "thunder",
    "doorbell": "a doorbell",
    "pistol_fire": "a gunshot",
}


def clips() -> dict[str, list[Path]]:
    """Kind -> train clips."""
    if not (DATA / "sounds.csv").is_file():
        pytest.skip(f"no {DATA}")
    found = defaultdict(list)
    with (DATA / "sounds.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["split"] == "train" and row["label"] in KINDS:
                found[row["label"]].append(DATA / row["path"])
    return found


def splice(folder: Path) -> list[tuple[str, str, float, float]]:
    """Write the files; (file name, kind, start, end) of every part."""
    rng, by_kind, parts = np.random.default_rng(1), clips(), []
    for number in range(FILES):
        lengths = PARTS_S[number % len(PARTS_S)]
        signals, at = [], 0.0
        for kind, length_s in zip(rng.choice(sorted(by_kind), len(lengths), replace=False), lengths, strict=True):
            clip = by_kind[kind][rng.integers(len(by_kind[kind]))]
            signals.append(np.resize(read_samples(clip, RATE_HZ), round(length_s * RATE_HZ)))
            parts.append((f"{number:02}.flac", str(kind), at, at + length_s))
            at += length_s
        soundfile.write(folder / f"{number:02}.flac", np.concatenate(signals), RATE_HZ)
    return parts


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two stretches of time."""
    inside = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return inside / (a[1] - a[0] + b[1] - b[0] - inside)


@pytest.mark.timeout(1200)
def test_share_of_the_odds(benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Overlap and median IoU of the top moment for each share."""
    parts = splice(tmp_path)
    with Library(tmp_path / "library", device="cpu") as library:
        library.index([tmp_path])

        def measure(share: float) -> tuple[float, float]:
            monkeypatch.setattr(search, "MOMENT_SHARE", share)
            ious = []
            for name, kind, start_s, end_s in parts:
                [found] = library.search(KINDS[kind], k=1, filters=[f"path~{name}"], min_relevance=0)
                ious.append(iou((found.start_s, found.end_s), (start_s, end_s)))
            return round(sum(value > 0 for value in ious) / len(ious), 3), round(median(ious), 3)

        table = benchmark.pedantic(lambda: {share: measure(share) for share in SHARES}, rounds=1)
    benchmark.extra_info["overlap_and_median_iou"] = {str(share): value for share, value in table.items()}
    print(f"\n{benchmark.name}: {json.dumps(benchmark.extra_info)}")
