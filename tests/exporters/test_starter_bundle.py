"""The shipped bundle itself: whole, small, and sensible on inputs that nobody meant."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from engine.audio import open_clip
from engine.bundle import STARTER_DIR, open_bundle
from engine.encoders import OnnxEncoders, encode_windows
from engine.windows import cut
from exporters.parity import probes

LARGEST_BYTES = 25_000_000


@pytest.fixture(scope="module")
def encoders() -> OnnxEncoders:
    return OnnxEncoders(open_bundle("starter"), "cpu", threads=1)


def strange(size: int) -> dict[str, NDArray[np.float32]]:
    """Inputs that break careless front ends."""
    chance = np.random.default_rng(0)
    click = np.zeros(size)
    click[:800] = chance.standard_normal(800)
    t = np.arange(size) / 16_000
    made = {
        **probes(size, 16_000),
        "50 ms click": click,
        "clipping": np.clip(50 * np.sin(2 * np.pi * 300 * t), -1, 1),
        "far too loud": 1e4 * chance.standard_normal(size),
        "hardly there": 1e-20 * chance.standard_normal(size),
        "7.9 kHz": np.sin(2 * np.pi * 7900 * t),
    }
    return {name: np.asarray(samples, np.float32) for name, samples in made.items()}


def test_every_file_is_listed_and_whole():
    bundle = open_bundle("starter")
    bundle.verify()
    files = {path.name for path in STARTER_DIR.iterdir() if path.is_file()}
    assert files == {*bundle.manifest.files, "manifest.json"}
    assert sum((STARTER_DIR / name).stat().st_size for name in files) < LARGEST_BYTES


def test_the_manifest_tells_what_was_measured():
    manifest = json.loads((STARTER_DIR / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["parity"]["audio_graph"] <= 1e-3
    assert manifest["parity"]["text_graph"] <= 1e-3
    assert {"scores", "credits", "training", "limits", "licence"} <= set(manifest)
    for curve in manifest["calibration"].values():
        assert curve["slope"] > 0
        assert 0 < curve["cutoff"] < 1


def test_strange_sounds_give_finite_unit_vectors(encoders):
    samples = np.stack(list(strange(encoders.space.window_samples).values()))
    vectors = encoders.audio.encode_audio(samples)
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_window_does_not_depend_on_its_neighbours(encoders):
    sounds = strange(encoders.space.window_samples)
    quiet = sounds["faint pink noise"]
    alone = encoders.audio.encode_audio(quiet[None])
    loud = np.stack([sounds["far too loud"], quiet, sounds["clipping"]])
    assert np.array_equal(encoders.audio.encode_audio(loud)[1], alone[0])


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("silence", "silence", "a dog barking"),
        ("silence", "silence", "rain on a roof"),
        ("tone", "sine wave tone", "a crowd cheering"),
        ("pink noise", "white noise", "a dog barking"),
    ],
)
def test_made_sounds_mean_what_they_are(encoders, name, right, wrong):
    vector = encoders.audio.encode_audio(strange(encoders.space.window_samples)[name][None])[0]
    near, far = encoders.text.encode_text([right, wrong]) @ vector
    assert near > far + 0.1


@pytest.mark.parametrize(
    ("made", "right"),
    [
        (lambda t: np.zeros_like(t), "silence"),
        (lambda t: np.full_like(t, 0.4), "silence"),
        (lambda t: 0.5 * np.sin(2 * np.pi * 20_000 * t), "silence"),
        (lambda t: np.clip(20 * np.sin(2 * np.pi * 440 * t), -1, 1), "an electronic tone"),
        (lambda t: np.where(t % 1 < 0.05, np.random.default_rng(0).uniform(-0.8, 0.8, t.shape), 0), "clicks"),
    ],
    ids=["silence", "direct current", "20 kHz", "clipping", "50 ms clicks"],
)
def test_odd_recordings_mean_what_they_are(encoders, tmp_path, made, right):
    soundfile.write(tmp_path / "odd.wav", made(np.arange(4 * 48_000) / 48_000), 48_000, subtype="FLOAT")
    windows = cut(open_clip(tmp_path / "odd.wav", encoders.space.sample_rate_hz).blocks, encoders.space)
    vectors = np.stack([vector for _, vector in encode_windows(encoders.audio, windows)])
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    others = ["a dog barking", "rain on a roof", "a crowd cheering", "a man speaking", "birds singing"]
    near, *far = encoders.text.encode_text([right, *others]) @ vectors[0]
    assert near > max(far)


@pytest.mark.parametrize("text", ["регн", "כלב", "\u0000", "\ufffd", "ⵣⵓⵔ"])
def test_nothing_sounds_like_a_text_without_a_known_word(encoders, text):
    sounds = encoders.audio.encode_audio(np.stack(list(strange(encoders.space.window_samples).values())))
    known, unknown = encoders.text.encode_text(["rain", text])
    assert np.linalg.norm(unknown) == pytest.approx(1, abs=1e-5)
    assert (sounds @ unknown).max() < 0.1
    curve = encoders.calibration["text"]
    assert curve.relevance(float((sounds @ unknown).max())) < 0.05
    assert np.allclose(known, encoders.text.encode_text(["rain"])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("emoji", "word", "other"),
    [("🐕", "dog", "rain"), ("🚗", "automobile", "dog"), ("🎻🎻", "violin", "dog"), ("🌧️", "rain cloud", "a car")],
)
def test_an_emoji_is_read_by_its_name(encoders, emoji, word, other):
    vector, near, far = encoders.text.encode_text([emoji, word, other])
    assert vector @ near > vector @ far + 0.2


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "?!",
        "雨の音",
        "perro ladrando",
        "x" * 10_000,
        "雨" * 10_000,
        "dog " * 3000,
        "Ωmega ñ",
        "perro 犬 Hund",
        "🐕🌧️👏",
    ],
)
def test_strange_texts_give_finite_unit_vectors(encoders, text):
    vector = encoders.text.encode_text([text])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("Dog Barking", "dog barking", "car engine"),
        ("dog bark", "a dog is barking in the distance", "a car passes by"),
        ("footstep", "footsteps", "velcro"),
        ("church bells", "church bell", "vacuum cleaner"),
        ("typing", "someone typing on a keyboard", "a baby crying"),
        ("velcro", "zipper", "thunder"),
        ("stapler", "stapling papers", "waves on a beach"),
    ],
)
def test_words_that_mean_the_same_are_near(encoders, one, same, other):
    a, b, c = encoders.text.encode_text([one, same, other])
    assert a @ b > a @ c + 0.15
