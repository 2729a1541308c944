"""Real sounds where they are present: the data folder beside the project."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from earshot import Library
from trainer.data import hold_out, read_rows, training_rows

DATA = Path(__file__).parents[3] / "shared" / "data"


@dataclass(frozen=True)
class Clip:
    path: Path
    label: str


@pytest.fixture(scope="session")
def dev_clips() -> list[Clip]:
    """The dev split: recordings of 45 kinds, for verdicts only."""
    if not (DATA / "sounds.csv").is_file():
        pytest.skip("no ../shared/data: the real sounds are not here")
    with (DATA / "sounds.csv").open(encoding="utf-8", newline="") as stream:
        return [Clip(DATA / row["path"], row["label"]) for row in csv.DictReader(stream) if row["split"] == "dev"]


@pytest.fixture(scope="session")
def dev_library(dev_clips: list[Clip], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    """The dev split under names that say nothing."""
    folder = tmp_path_factory.mktemp("dev")
    sounds = folder / "sounds"
    sounds.mkdir()
    for number, clip in enumerate(dev_clips):
        (sounds / f"{number:04}{clip.path.suffix}").symlink_to(clip.path)
    with Library(folder / "library", device="cpu") as library:
        report = library.index([sounds])
        assert (report.indexed, report.failed) == (len(dev_clips), [])
        yield library


def dev_number(path: str) -> int:
    """Which dev clip a hit is."""
    return int(Path(path).stem)


@pytest.fixture(scope="session")
def held_out_library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, dict[str, str]]]:
    """Train clips with a text, those that no tower has learnt from or that creak, under names that say nothing."""
    if not (DATA / "sounds.csv").is_file():
        pytest.skip("no ../shared/data: the real sounds are not here")
    rows = training_rows(read_rows(DATA))
    creaks = [row for row in rows if re.search("creak|squeak|squeal", row.text)]
    chosen = [row for row in dict.fromkeys([*hold_out(rows)[1], *creaks]) if row.text]
    folder = tmp_path_factory.mktemp("train")
    sounds = folder / "sounds"
    sounds.mkdir()
    texts = {}
    for number, row in enumerate(chosen):
        link = sounds / f"{number:04}{row.path.suffix}"
        link.symlink_to(row.path)
        texts[str(link)] = row.text
    with Library(folder / "library", device="cpu") as library:
        library.index([sounds])
        yield library, texts
