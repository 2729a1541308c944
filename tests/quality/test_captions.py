"""Floors under the captions of the shipped model: what it says of the demo's sounds, and of silence and noise."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earshot import foley_indoors as indoors
from earshot import foley_outdoors as outdoors
from earshot.captioning import OfBundle, caption_file, captioner_of
from earshot.models import load_encoders
from earshot.synth import Sound
from engine.captioner import Captioner
from engine.encoders import OnnxEncoders, encode_windows, normalise
from engine.eventless import NO_EVENT
from engine.types import Caption, FloatArray
from engine.windows import cut

RATE_HZ, SECONDS = 16_000, 6.0
#: Sounds made on the spot, and words one of which a sensible caption holds.
SOUNDS: dict[str, tuple[Sound, str]] = {
    "rain": (outdoors.rain, "rain|water|drizzl|pour|shower|drip"),
    "dog": (outdoors.dog, "dog|bark|puppy|hound"),
    "siren": (outdoors.siren, "siren|alarm|ambulance"),
    "helicopter": (outdoors.helicopter, "helicopter|plane|aircraft|propeller|rotor"),
    "birds": (outdoors.birds, "bird|chirp|sing"),
    "thunder": (outdoors.thunder, "thunder|storm|rumbl|explo"),
    "waves": (outdoors.waves, "wave|sea|ocean|surf|water|wind"),
    "church bell": (indoors.church_bell, "bell|chime|gong"),
    "typing": (indoors.typing, "typ|keyboard|key|click|tap"),
    "clock": (indoors.ticking, "tick|clock"),
    "piano": (indoors.piano, "piano|music|note|play"),
    "telephone": (indoors.telephone, "phone|ring|bell|alarm"),
}
FEWEST_RIGHT = 8


@pytest.fixture(scope="module")
def encoders() -> OnnxEncoders:
    return load_encoders("starter", "cpu")


@pytest.fixture(scope="module")
def captioner(encoders: OnnxEncoders) -> Captioner:
    found = captioner_of(encoders, OfBundle(encoders))
    assert isinstance(found, Captioner)
    return found


def vector_of(encoders: OnnxEncoders, samples: FloatArray) -> FloatArray:
    windows = cut(iter([samples.astype(np.float32)]), encoders.space)
    return normalise(np.mean([vector for _, vector in encode_windows(encoders.audio, windows)], axis=0, keepdims=True))


def test_made_sounds_are_called_what_they_are(encoders: OnnxEncoders, captioner: Captioner) -> None:
    said: dict[str, Caption] = {}
    for name, (sound, _) in SOUNDS.items():
        samples = sound(np.random.default_rng(0), RATE_HZ, SECONDS)
        mono = samples if samples.ndim == 1 else samples.mean(axis=1)
        peak = np.abs(mono).max()
        [said[name]] = captioner.caption(vector_of(encoders, 0.7 * mono / peak))
    right = {name for name, (_, words) in SOUNDS.items() if re.search(words, said[name].text)}
    assert {"rain", "dog"} <= right, said
    assert len(right) >= FEWEST_RIGHT, {name: caption.text for name, caption in said.items()}
    assert all(caption.evidence for name, caption in said.items() if name in right)


def eventless(seed: int) -> dict[str, FloatArray]:
    """Silence and noises in which nothing happens."""
    chance, size = np.random.default_rng(seed), round(RATE_HZ * SECONDS)
    white = chance.standard_normal(size)
    made = {"digital silence": np.zeros(size), "a sound card's own noise": 1e-5 * white}
    made |= {f"white noise at {level}": level * np.clip(white, -3, 3) for level in (0.01, 0.05, 0.2)}
    return {name: np.asarray(samples, np.float32) for name, samples in made.items()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_invented(encoders: OnnxEncoders, captioner: Captioner, seed: int) -> None:
    for name, samples in eventless(seed).items():
        [caption] = captioner.caption(vector_of(encoders, samples))
        assert caption.text in NO_EVENT["eng"], (name, caption)


DOGS = {"fra": "chien", "deu": "Hund", "spa": "perr", "nld": "hond", "cat": "gos", "jpn": "犬", "zho": "狗"}


@pytest.mark.parametrize("language", DOGS)
def test_other_languages_are_told_the_nearest_remembered(encoders: OnnxEncoders, language: str) -> None:
    silence = vector_of(encoders, np.zeros(RATE_HZ, np.float32))
    dog = vector_of(encoders, np.asarray(outdoors.dog(np.random.default_rng(0), RATE_HZ, SECONDS), np.float32))
    found = captioner_of(encoders, OfBundle(encoders), lang=language)
    nothing, something = found.caption(np.concatenate([silence, dog]))
    assert nothing.language == something.language == language
    assert re.search(DOGS[language], something.text, re.IGNORECASE), something
    assert nothing.text == NO_EVENT[language][0]


@pytest.mark.parametrize("coded", ["noise.ogg", "noise.mp3"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_coded_noise_is_told_as_noise(
    encoders: OnnxEncoders, captioner: Captioner, coded: str, seed: int, tmp_path: Path
):
    """A codec's frames are something that happens, but no event of which to invent a name."""
    noise = 0.2 * np.random.default_rng(seed).standard_normal(6 * 44_100)
    soundfile.write(tmp_path / coded, np.clip(noise, -1, 1), 44_100)
    for moment in caption_file(tmp_path / coded, encoders, captioner):
        assert re.search("noise|hiss|static", moment.caption.text), moment
