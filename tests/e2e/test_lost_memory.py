"""The advice for a damaged memory is to remove its folder and index again: that must bring everything back."""

from __future__ import annotations

import shutil
from pathlib import Path

from earshot import Library
from engine.fakes import FakeEncoders
from tests.sounds import tone, write_sound


def test_a_removed_memory_folder_is_filled_again(tmp_path: Path):
    sounds = tmp_path / "sounds"
    for n in range(5):
        write_sound(sounds / f"{n}.wav", tone(3.0, rate_hz=8000, hz=60.0 * 2**n), rate_hz=8000)
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        library.index([sounds])
        before = [moment.path for moment in library.search("band500", min_relevance=0)]
    shutil.rmtree(tmp_path / "library" / "memory")
    with Library(tmp_path / "library", encoders=FakeEncoders()) as library:
        report = library.index([sounds])
        assert (report.lost, report.indexed, report.skipped) == (5, 5, 0)
        assert [moment.path for moment in library.search("band500", min_relevance=0)] == before
        library.check()
