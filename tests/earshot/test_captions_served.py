"""What is remembered and what is said of sounds, on a server that two machines fill."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from earshot import Library
from earshot.copying import copy_library
from engine.fakes import FakeEncoders
from engine.types import Caption, FloatArray
from tests.engine.memory.stub_qdrant import Stub
from tests.sounds import tone, write_sound

pytestmark = pytest.mark.usefixtures("machine")


class Sayer:
    """Says the same of all; counts windows."""

    def __init__(self) -> None:
        self.windows = 0

    def caption(self, vectors: FloatArray) -> list[Caption]:
        self.windows += len(vectors)
        return [Caption("a ship's horn", 0.9, "eng") for _ in vectors]


def opened(qdrant: Stub) -> Library:
    return Library(qdrant.url, encoders=FakeEncoders())


def test_what_one_machine_remembers_and_says_the_other_finds_and_does_not_say_again(
    qdrant: Stub, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    write_sound(tmp_path / "sounds" / "low.wav", tone(2.0, rate_hz=8000, hz=125), rate_hz=8000, title="Harbour")
    first, second = Sayer(), Sayer()
    with opened(qdrant) as library:
        assert library.recalled(library.encode_text(["rain"])[0], 3) == []
        library.remember(["rain on a roof", "a dog"], lang="eng")
        assert library.index([tmp_path / "sounds"], caption=first).captioned == 1
        assert (library.status().captions, library.status().generated) == (2, 1)
    machine("two")
    with opened(qdrant) as library:
        assert sorted(library.text_memory()[1]) == ["a dog", "rain on a roof"]
        assert library.remember(["a dog"], lang="eng").known == 1
        library.index([tmp_path / "sounds"], caption=second)
        [found] = library.search("ship horn")
        assert (found.caption, found.by) == ("a ship's horn", "keywords")
        assert [moment.path for moment in library.search("harbour", by="keywords")] == [found.path]
        assert [sound.captions for sound in library.captions()] == [("a ship's horn",)]
        assert library.forget(source="generated") == 1
    assert (first.windows, second.windows) == (3, 0)
    report = copy_library(qdrant.url, tmp_path / "copy")
    assert report.captions == 2
    with Library(tmp_path / "copy", encoders=FakeEncoders()) as copy:
        assert [moment.caption for moment in copy.search("ship horn")] == ["a ship's horn"]
