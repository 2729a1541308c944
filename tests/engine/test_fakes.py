"""The fake encoders stand in for real ones in every other test, so they keep the same promises."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from engine.encoders import encode_sound
from engine.errors import QueryError
from engine.fakes import BANDS_HZ, FakeEncoders, band_word
from engine.types import FloatArray

ENCODERS = FakeEncoders()
SIZE = ENCODERS.space.window_samples


def tone(hz: float, peak: float = 0.5) -> FloatArray:
    return (peak * np.sin(2 * np.pi * hz * np.arange(SIZE) / 8000)).astype(np.float32)


SCRIPT = """
import numpy as np
from engine.fakes import FakeEncoders
e = FakeEncoders()
window = np.sin(np.arange(e.space.window_samples) / 3).astype(np.float32)[None]
print(e.encode_audio(window).tobytes().hex(), e.encode_text(["a siren, far away"]).tobytes().hex(), e.space)
"""


def test_every_process_hears_the_same() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("hz", [50, 63, 100, 125, 260, 440, 1000, 1900, 2000, 3900])
def test_a_tone_is_found_by_its_band(hz: float) -> None:
    (vector,) = ENCODERS.encode_audio(tone(hz)[None])
    scores = {band: float(vector @ ENCODERS.encode_text([f"band{band}"])[0]) for band in BANDS_HZ}
    nearest = min(BANDS_HZ, key=lambda band: max(band / hz, hz / band))
    assert max(scores, key=lambda band: scores[band]) == nearest
    assert scores[nearest] == pytest.approx(1, abs=1e-6)
    assert band_word(hz) == f"band{nearest}"


def test_silence_has_a_word_of_its_own() -> None:
    (vector,) = ENCODERS.encode_audio(np.zeros((1, SIZE), np.float32))
    assert float(vector @ ENCODERS.encode_text(["Silence"])[0]) == pytest.approx(1, abs=1e-6)


def test_vectors_are_of_unit_length_and_the_spaces_dimension() -> None:
    heard = ENCODERS.encode_audio(np.stack([tone(100), tone(1000), np.zeros(SIZE, np.float32)]))
    read = ENCODERS.encode_text(["rain", "rain on a tin roof", "RAIN"])
    for vectors in (heard, read):
        assert vectors.shape == (3, ENCODERS.space.dim)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(read[0], read[2])


def test_two_spaces_differ() -> None:
    other = FakeEncoders(name="other")
    assert other.space.space_id != ENCODERS.space.space_id
    assert abs(float(other.encode_text(["rain"])[0] @ ENCODERS.encode_text(["rain"])[0])) < 0.9


def test_a_whole_sound_is_one_vector() -> None:
    vector = encode_sound(ENCODERS.audio, [tone(440), tone(440)], ENCODERS.space)
    np.testing.assert_allclose(vector, ENCODERS.encode_text(["band500"])[0], atol=1e-6)


def test_no_windows_give_no_vectors() -> None:
    assert ENCODERS.encode_audio(np.empty((0, SIZE), np.float32)).shape == (0, ENCODERS.space.dim)


@pytest.mark.parametrize("shape", [(SIZE,), (1, SIZE - 1), (1, SIZE, 1)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        ENCODERS.encode_audio(np.zeros(shape, np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        ENCODERS.encode_audio(np.full((1, SIZE), value, np.float32))


@pytest.mark.parametrize("texts", [[], [""], ["rain", "  "], ["…"]])
def test_no_words_are_refused(texts: list[str]) -> None:
    with pytest.raises(QueryError):
        ENCODERS.encode_text(texts)
