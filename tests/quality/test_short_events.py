"""A short event in a long silence, or in steady noise, is neither of them: with the shipped starter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from earshot import Library
from earshot.captioning import CaptionedMoment, OfBundle, caption_file, captioner_of
from earshot.models import load_encoders
from engine.captioner import Captioner
from engine.encoders import OnnxEncoders
from engine.errors import QueryError
from engine.eventless import NO_EVENT, Wordings
from engine.retrieval_captioner import RetrievalCaptioner
from engine.types import FloatArray

RATE_HZ = 16_000


def _burst(seconds: float, total_s: float, at_s: float, decay: float = 60.0) -> FloatArray:
    samples, t = np.zeros(round(total_s * RATE_HZ)), np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    first = round(at_s * RATE_HZ)
    samples[first : first + len(t)] = 0.8 * np.exp(-decay * t) * np.sin(2 * np.pi * 900 * t)
    return samples.astype(np.float32)


def _white(total_s: float, level: float) -> FloatArray:
    chance = np.random.default_rng(5)
    return (level * np.clip(chance.standard_normal(round(total_s * RATE_HZ)), -3, 3)).astype(np.float32)


def _beep() -> FloatArray:
    return np.asarray(_white(20, 0.1) + 0.375 * _burst(1.0, 20, 8.2, decay=0), np.float32)


def _clicks() -> FloatArray:
    samples = np.zeros(10 * RATE_HZ, np.float32)
    samples[:: RATE_HZ // 10] = 0.9
    return samples


#: What is heard, and from when to when.
EVENTS: dict[str, tuple[FloatArray, float, float]] = {
    "50 ms in silence": (_burst(0.05, 5, 2.3), 2.3, 2.35),
    "10 ms in silence": (_burst(0.01, 5, 2.3), 2.3, 2.31),
    "10 ms in 20 s of silence": (_burst(0.01, 20, 11.1), 11.1, 11.11),
    "half a second in faint hiss": (_white(12, 0.003) + _burst(0.5, 12, 5.1, decay=4), 5.1, 5.6),
    "a beep in noise": (_beep(), 8.2, 9.2),
    "clicks": (_clicks(), 0.0, 10.0),
}


@pytest.fixture(scope="module")
def encoders() -> OnnxEncoders:
    return load_encoders("starter", "cpu")


@pytest.fixture(scope="module")
def memory(encoders: OnnxEncoders) -> OfBundle:
    return OfBundle(encoders)


def _says_nothing(encoders: OnnxEncoders, text: str) -> bool:
    return text in NO_EVENT["eng"] or bool(Wordings(encoders.text).say_nothing(encoders.text.encode_text([text]))[0])


@pytest.mark.parametrize("name", EVENTS)
def test_a_short_event_is_told(tmp_path: Path, encoders: OnnxEncoders, memory: OfBundle, name: str) -> None:
    samples, start_s, end_s = EVENTS[name]
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ)
    moments = list(caption_file(tmp_path / "a.wav", encoders, captioner_of(encoders, memory)))

    def is_of_it(moment: CaptionedMoment) -> bool:
        return moment.start_s < end_s and moment.end_s > start_s and not _says_nothing(encoders, moment.caption.text)

    assert any(map(is_of_it, moments)), moments
    elsewhere = [one for one in moments if one.end_s < start_s - 1 or one.start_s > end_s + 2]
    assert {one.caption.text for one in elsewhere} <= set(NO_EVENT["eng"])


def test_index_says_it_of_its_windows(tmp_path: Path, encoders: OnnxEncoders) -> None:
    for number, (samples, _, _) in enumerate(EVENTS.values()):
        soundfile.write(tmp_path / f"{number}.wav", samples, RATE_HZ)
    with Library(tmp_path / "library", encoders=encoders) as library:
        library.index([tmp_path], caption=True)
        said = {
            Path(one.paths[0]).stem: one.captions + tuple(run.text for run in one.moments) for one in library.captions()
        }
    for number, name in enumerate(EVENTS):
        assert any(not _says_nothing(encoders, text) for text in said[str(number)]), name
        assert all(text in NO_EVENT["eng"] or not _says_nothing(encoders, text) for text in said[str(number)]), name


@pytest.mark.parametrize("language", ["eng", "fra", "zho"])
def test_a_sound_with_an_event_is_never_said_to_be_nothing(
    encoders: OnnxEncoders, memory: OfBundle, language: str
) -> None:
    """Were its vector that of silence itself."""
    silent = encoders.audio.encode_audio(np.zeros((1, encoders.space.window_samples), np.float32))
    for captioner in (captioner_of(encoders, memory, lang=language), RetrievalCaptioner(encoders, memory, language)):
        assert captioner.caption(silent)[0].text == NO_EVENT[language][0]
        [caption] = captioner.caption_events(silent)
        assert caption.unsure or not _says_nothing(encoders, caption.text)
        assert caption.text not in NO_EVENT[language]


def test_vectors_of_any_length_say_the_same_and_none_is_refused(encoders: OnnxEncoders, memory: OfBundle) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(encoders.space.window_samples) / RATE_HZ)[None].astype(np.float32)
    vector = encoders.audio.encode_audio(tone)
    for captioner in (captioner_of(encoders, memory), RetrievalCaptioner(encoders, memory)):
        [plain], [long] = captioner.caption(vector), captioner.caption(40 * vector)
        assert (plain.text, plain.unsure) == (long.text, long.unsure)
        assert plain.score == pytest.approx(long.score, abs=1e-4)
        with pytest.raises(QueryError, match="zeros"):
            captioner.caption(0 * vector)
        with pytest.raises(QueryError, match="NaN"):
            captioner.caption_events(np.nan * vector)
        with pytest.raises(QueryError, match=r"\[n, "):
            captioner.caption(vector[:, :8])
    assert isinstance(captioner_of(encoders, memory), Captioner)
