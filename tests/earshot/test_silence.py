"""Where there is nothing to hear, words find nothing, unless silence is what they mean: with the shipped starter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from earshot import Library
from engine.types import Moment
from tests.sounds import noise, write_sound

RATE_HZ = 44_100
SOUND_S, ALL_S = 8.0, 28.0
#: Some of these were answered with silence, a constant or a tone of 20 kHz.
NAMES = """
dog barking; barking; squeak; 叫び声; 狗吠; a dog barking; scream; screaming; whispering; shouting
telling someone to be quiet; rain; wind; thunder; waves; a river; cat meowing; birdsong; a rooster; cow
frogs croaking; crickets; bee; howling; growling; car engine; train; helicopter; siren; car horn; bicycle bell
drill; hammer; saw; vacuum cleaner; clock ticking; alarm; speech; laughter; baby crying; applause; footsteps
snoring; cough; sneeze; breathing; whistle; noise; hiss; hum; heartbeat; guitar; piano; drums; violin; singing
glass breaking; door; typing; fireworks; gunshot; explosion; perro ladrando; 雨の音
"""
#: A click was answered to these, while it was taken for silence.
NOT_A_CLICK = ("dog bark", "dog barking", "barking", "perro ladrando", "a rooster", "whispering", "screaming", "叫び声")
MEANING_SILENCE = ("silence", "silencio", "無音", "寂静")


def wave(kind: str) -> np.ndarray:
    t = np.arange(round(RATE_HZ * ALL_S)) / RATE_HZ
    tail = t >= SOUND_S
    rest = {"silence": 0 * t, "constant": 0 * t + 0.4, "20 kHz": 0.5 * np.sin(2 * np.pi * 20_000 * t)}[kind]
    return np.where(tail, rest, noise(ALL_S, rate_hz=RATE_HZ, peak=0.2)).astype(np.float32)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("silence")
    for number, kind in enumerate(("silence", "constant", "20 kHz")):
        write_sound(folder / "sounds" / f"{number}.flac", wave(kind), rate_hz=RATE_HZ)
        rest = wave(kind)[round(RATE_HZ * (SOUND_S + 1)) :]
        write_sound(folder / "sounds" / f"{number} alone.flac", rest, rate_hz=RATE_HZ)
    with Library(folder / "library", device="cpu") as library:
        assert library.index([folder / "sounds"]).indexed == 6
        yield library


def names_asked() -> list[str]:
    return [name.strip() for row in NAMES.split("\n") for name in row.split(";") if name.strip()]


def in_the_silence(moments: list[Moment]) -> list[tuple[str, float]]:
    """What was found that reaches further into the silence than a window does."""
    late = [m for m in moments if "alone" in m.path or m.end_s > SOUND_S + 2]
    return [(Path(moment.path).name, moment.end_s) for moment in late]


def test_no_name_of_a_sound_is_answered_with_silence(library: Library):
    asked = names_asked()
    assert len(asked) >= 60
    answers = {name: in_the_silence(library.search(name, by="meaning")) for name in asked}
    assert {name: found for name, found in answers.items() if found} == {}


def test_however_irrelevant_an_answer_may_be(library: Library):
    found = library.search("a dog barking", min_relevance=0, by="meaning")
    assert len(found) == 3
    assert in_the_silence(found) == []


def test_nor_is_a_sound_with_words(library: Library):
    still = Path(library.search("silence", k=1, filters=["path~alone"])[0].path)
    found = library.search("but with a dog barking", audio=still, min_relevance=0)
    assert len(found) == 3
    assert in_the_silence(found) == []
    assert in_the_silence(library.search("silence", audio=still, min_relevance=0)[:1])
    assert in_the_silence(library.search(audio=still, min_relevance=0)[:1])


@pytest.mark.parametrize("words", MEANING_SILENCE)
def test_who_asks_for_silence_finds_it(library: Library, words: str):
    found = {Path(m.path).name: m for m in library.search(words, by="meaning")}
    assert {"0.flac", "0 alone.flac"} <= found.keys()
    assert found["0.flac"].start_s >= SOUND_S - 1
    assert found["0.flac"].end_s == pytest.approx(ALL_S, abs=0.01)


def test_a_click_and_a_clipped_sound_are_found(tmp_path: Path):
    click = np.zeros(RATE_HZ * 4, np.float32)
    click[RATE_HZ : RATE_HZ + RATE_HZ // 20] = noise(0.05, rate_hz=RATE_HZ)
    write_sound(tmp_path / "sounds" / "click.wav", click, rate_hz=RATE_HZ)
    write_sound(tmp_path / "sounds" / "50 ms.wav", noise(0.05, rate_hz=RATE_HZ, seed=1), rate_hz=RATE_HZ)
    clipped = np.clip(20 * noise(4.0, rate_hz=RATE_HZ, seed=2), -1, 1)
    write_sound(tmp_path / "sounds" / "clipped.wav", clipped, rate_hz=RATE_HZ)
    with Library(tmp_path / "library", device="cpu") as library:
        library.index([tmp_path / "sounds"])
        found = {Path(m.path).name: m for m in library.search("a click", min_relevance=0, by="meaning")}
        sure = {Path(m.path).name for m in library.search("a click", by="meaning")}
        others = {Path(m.path).name for name in NOT_A_CLICK for m in library.search(name, by="meaning")}
    assert found.keys() == {"click.wav", "50 ms.wav", "clipped.wav"}
    assert found["click.wav"].start_s <= 1.0 <= found["click.wav"].end_s <= 3.0
    assert "click.wav" in sure
    assert "click.wav" not in others
