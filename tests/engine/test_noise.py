"""Steady noise is known by its samples, of any colour, length, level and rate; and no sound that happens is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from earshot import foley_indoors as indoors
from earshot import foley_outdoors as outdoors
from engine.audio import open_clip
from engine.eventless import has_event, known_of, looked_at, told
from engine.noise import is_noise
from engine.types import FloatArray, Space, Window
from engine.windows import cut

RATE_HZ = 16_000
SPACE = Space("test@000000000000", 4, RATE_HZ, 1.94, 0.97, "repeat")
DATA = Path(__file__).parents[3] / "shared" / "data" / "sounds" / "train"
Draw = Callable[[int, np.random.Generator], np.ndarray]


def white(size: int, chance: np.random.Generator) -> np.ndarray:
    return chance.standard_normal(size)


def shaped(gain: Callable[[np.ndarray], np.ndarray], rate_hz: int = RATE_HZ) -> Draw:
    """White noise with its spectrum multiplied by ``gain`` of the frequency in Hz; a cut out of the middle."""

    def draw(size: int, chance: np.random.Generator) -> np.ndarray:
        spectrum = np.fft.rfft(chance.standard_normal(2 * (size + rate_hz)))
        noise = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(2 * (size + rate_hz), 1 / rate_hz)))
        return noise[rate_hz : rate_hz + size] / noise.std()

    return draw


COLOURS: dict[str, Draw] = {
    "pink": shaped(lambda hz: np.maximum(hz, 20) ** -0.5),
    "brown": shaped(lambda hz: np.maximum(hz, 20) ** -1.0),
    "below 1 kHz": shaped(lambda hz: 1 / np.sqrt(1 + (hz / 1000) ** 4)),
    "0.5 to 2 kHz": shaped(lambda hz: 1 / np.sqrt((1 + (hz / 2000) ** 8) * (1 + (500 / np.maximum(hz, 1)) ** 8))),
    "below 4 kHz, no more": shaped(lambda hz: (hz < 4000).astype(float)),
}


def in_silence(noise: np.ndarray, chance: np.random.Generator, rate_hz: int = RATE_HZ) -> FloatArray:
    """Somewhere in up to three seconds of silence."""
    silence = chance.integers(0, 3 * rate_hz, 2)
    return np.pad(noise, silence).astype(np.float32)


def judged(samples: np.ndarray, space: Space = SPACE) -> set[str]:
    """What its windows are said to be."""
    blocks = iter([np.clip(samples, -1, 1).astype(np.float32)])
    return {one.eventless for one in looked_at(cut(blocks, space), space.sample_rate_hz)}


def missed(draw: Draw, seconds: float, draws: int) -> int:
    """Of so many noises of a length, at several levels, alone and in silence, those with a window that isn't known."""
    count, chance = 0, np.random.default_rng(round(seconds * 1000))
    for number in range(draws):
        noise = (0.01, 0.1, 0.2)[number % 3] * draw(round(seconds * RATE_HZ), chance)
        count += bool(judged(in_silence(noise, chance) if number % 2 else noise) - {"noise", "silent"})
    return count


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0])
def test_white_noise_of_any_length_is_known(seconds: float) -> None:
    assert missed(white, seconds, 60) <= 1


@pytest.mark.parametrize("colour", COLOURS)
def test_coloured_and_filtered_noise_is_known(colour: str) -> None:
    assert sum(missed(COLOURS[colour], seconds, 20) for seconds in (0.02, 0.1, 0.5, 2.5)) <= 3


@pytest.mark.parametrize(("rate_hz", "window_s"), [(8000, 1.0), (44_100, 7.0), (48_000, 10.0)])
def test_of_any_rate_and_any_window(rate_hz: int, window_s: float) -> None:
    space, chance = Space("test@000000000001", 4, rate_hz, window_s, window_s, "zero"), np.random.default_rng(1)
    brown = shaped(lambda hz: np.maximum(hz, 20) ** -1.0, rate_hz)
    for draw in (white, brown):
        for seconds in (0.05, 0.5, window_s):
            noises = [0.1 * draw(round(seconds * rate_hz), chance) for _ in range(5)]
            assert sum(judged(noise, space) != {"noise"} for noise in noises) <= 1, (draw, seconds)


def test_loudness_makes_no_difference() -> None:
    noise = white(8000, np.random.default_rng(3))
    assert all(judged(level * noise) == {"noise"} for level in (1e-4, 1e-3, 0.01, 0.3))
    assert judged(1e-6 * noise) == {"silent"}


def events() -> Iterator[tuple[str, np.ndarray]]:
    """Sounds in which something happens, of which noise is a part or the most."""
    chance = np.random.default_rng(5)
    t = np.arange(2 * RATE_HZ) / RATE_HZ
    noise = chance.standard_normal(len(t))
    yield "a tone", 0.3 * np.sin(2 * np.pi * 440 * t)
    yield "a tone of 30 ms", 0.3 * np.sin(2 * np.pi * 1234 * t[:480])
    yield "a chord", sum(0.1 * np.sin(2 * np.pi * hz * t) for hz in (220, 277, 330))
    yield "a tone in noise", 0.1 * noise + 0.05 * np.sin(2 * np.pi * 1000 * t)
    yield "a hum of many tones", sum(0.02 * np.sin(2 * np.pi * 100 * n * t + n * n) for n in range(1, 60))
    yield "a click", np.where(np.arange(len(t)) == 9000, 1.0, 0.0)
    yield "a knock", 0.5 * noise * np.exp(-t / 0.02)
    yield "a short knock", np.pad((0.5 * noise * np.exp(-t / 0.005))[:800], 5000)
    yield "a crash", 0.3 * noise * np.exp(-t / 0.4)
    yield "surf", 0.1 * noise * (1 + 0.5 * np.sin(2 * np.pi * 0.8 * t))
    yield "a motor", 0.1 * noise * (1 + 0.5 * np.sin(2 * np.pi * 30 * t))
    yield "bursts", 0.2 * noise * ((t * 3) % 1 < 0.3)
    yield "a burst in noise", noise * np.where((t > 0.8) & (t < 0.9), 0.1, 0.03)
    yield "a sweep of noise", shaped(lambda hz: 1 / (1 + (hz / 300) ** 4))(len(t), chance) * (1 - t / 2) + noise * t / 2


@pytest.mark.parametrize(("name", "samples"), list(events()), ids=[name for name, _ in events()])
def test_what_happens_is_no_noise(name: str, samples: np.ndarray) -> None:
    assert judged(0.5 * samples) == {""}


@pytest.mark.parametrize(
    "sound",
    [
        outdoors.rain,
        outdoors.waves,
        outdoors.thunder,
        outdoors.helicopter,
        indoors.typing,
        indoors.applause,
        indoors.steam,
        outdoors.wind,
    ],
)
def test_sounds_that_are_mostly_noise_keep_their_event(sound: Callable[..., FloatArray]) -> None:
    for seed in range(3):
        assert "" in judged(sound(np.random.default_rng(seed), RATE_HZ, 6.0))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the sounds of ../shared/data")
@pytest.mark.parametrize("word", ["rain", "wind", "waterfall", "steam", "applause", "fire", "sea", "vacuum", "shower"])
def test_recordings_that_are_mostly_noise_keep_their_event(word: str) -> None:
    paths = sorted(path for path in DATA.rglob(f"*{word}*.ogg") if path.is_file())[:8]
    for path in paths:
        windows = list(looked_at(cut(open_clip(path, RATE_HZ).blocks, SPACE), RATE_HZ))
        assert any(not one.eventless for one in windows), path.name


def test_padding_tells_nothing() -> None:
    burst = 0.1 * white(3200, np.random.default_rng(7)).astype(np.float32)
    for pad in ("repeat", "repeatpad", "zero"):
        space = Space("test@000000000002", 4, RATE_HZ, 1.94, 0.97, pad)
        (window,) = cut(iter([burst]), space)
        assert is_noise(window, RATE_HZ)


def test_what_was_heard_stands_with_the_point_and_is_said_in_any_language() -> None:
    assert [known_of(one) for one in ({}, {"noise": 1}, {"silent": 1}, {"silent": None})] == ["", "noise", "silent", ""]
    asked = ({}, {"noise": 1}, {"silent": 1}, {"silent": None}, {"silent": 0})
    assert [has_event(one) for one in asked] == [False, False, False, False, True]
    assert (told("noise", "fra").text, told("silent", "zho").text) == ("bruit continu", "寂静")
    assert (told("noise", "xyz").text, told("noise", "xyz").language) == ("steady noise", "eng")


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("size", [1, 50, 160, 800, 8_000, 32_000])
def test_a_constant_that_is_switched_on_is_no_noise(rate_hz: int, size: int) -> None:
    """It has no line at all, of which others were to be the leakage."""
    for before, after in ((0.0, 0.5), (0.5, 0.0), (0.5, -0.5), (0.0, -1e-3)):
        samples = np.full(2 * rate_hz, before, np.float32)
        samples[rate_hz // 4 : rate_hz // 4 + size] = after
        assert not is_noise(Window(0, 0.0, 2.0, samples), rate_hz)
