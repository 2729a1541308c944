"""The starter's a2t module is asked fairly: other clips of the same kinds, and the right mixtures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.hearing import Views
from trainer.proxy import read_kinds
from trainer.recipes import sound_words
from trainer.recipes.sound_words import SoundWords


class Given(SoundWords):
    """Mixtures that lie between their windows, as if the trunk were linear."""

    def mixtures(self, key: str, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float16]:
        return ((self.clean.features[first].astype(np.float32) + self.clean.features[second]) / 2).astype(np.float16)


class Towers:
    """A kind's sound and its name are the same direction; a composed question lies between."""

    def heard(self, features: NDArray[np.float16]) -> NDArray[np.float32]:
        mean = features.astype(np.float32).mean(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def read(self, texts: list[str]) -> NDArray[np.float32]:
        names = [kind.names["eng"] for kind in read_kinds()]
        return np.eye(8, dtype=np.float32)[[names.index(text) for text in texts]]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> SoundWords:
    """Four kinds of six clips each, a window a clip; the first clip of each kind was learnt from."""
    monkeypatch.setattr(sound_words, "QUESTIONS", 60)
    kind = np.repeat(np.arange(4), 6)
    features = np.repeat(np.eye(8, dtype=np.float16)[kind][:, None], 2, axis=1)
    found = Given(Path("absent"), Path("absent"), Path("absent"))
    views = Views.alone(np.arange(24), features)
    found.__dict__.update(kind=kind, clean=views, learnt_from=np.arange(24) % 6 == 0, kinds=read_kinds())
    found.__dict__.update(towers=Towers(), vectors=_Numpy(Towers().heard(features)))
    return found


class _Numpy:
    """As much of a tensor as is asked for."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values

    def __getitem__(self, rows: NDArray[np.int64]) -> _Numpy:
        return _Numpy(self._values[rows])

    def numpy(self) -> NDArray[np.float32]:
        return self._values


def test_a_question_and_its_answer_are_of_other_clips(work: SoundWords):
    asked = work.questions
    kind, learnt = work.kind, work.learnt_from
    one, other = work.clean.first[asked.mixed.first], work.clean.first[asked.mixed.second]
    assert (one != asked.sounds).all()
    assert (kind[one] == asked.kinds[:, 0]).all()
    assert (kind[asked.sounds] == asked.kinds[:, 0]).all()
    assert (kind[other] == asked.kinds[:, 1]).all()
    assert (asked.kinds[:, 0] != asked.kinds[:, 1]).all()
    assert not learnt[np.concatenate([one, other, asked.sounds])].any()


def test_the_sum_finds_mixtures_where_the_space_is_linear(work: SoundWords, monkeypatch: pytest.MonkeyPatch):
    def words_alone(self: SoundWords, words: list[str], sounds: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        return [Towers().read([word]) for word in words]

    monkeypatch.setattr(SoundWords, "_composed", words_alone)
    found = work.asked("eng")
    assert found["their sum"][0].mean() == 1
    assert found["sound alone"][0].mean() == found["words alone"][0].mean() == 0
    np.testing.assert_array_equal(found["a2t"][1], found["words alone"][1])
