"""Fine-tuned classification on tiny towers: it learns, goes on where it was, and is part of the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.fakes import FakeEncoders
from tests.sounds import noise, tone, write_sound
from tests.trainer import tiny_towers
from trainer import classify
from trainer.classify import Classifying, Teaching
from trainer.examples import Example
from trainer.probe import folds
from trainer.verdict import Lesson, judge

KINDS = ("hum", "hiss")
TAUGHT = Teaching(epochs=6, batch=4, rate=3e-3, head_rate=3e-2)


def clips(folder: Path, split: str, seed: int) -> list[Example]:
    made = []
    for number in range(8):
        kind = number % 2
        samples = noise(1.2, seed=seed + number) if kind else tone(1.2, hz=150 + 20 * number + seed)
        path = write_sound(folder / f"{split}{number}.wav", samples)
        made.append(Example(f"{split}{number}", path, (), (KINDS[kind],), split))
    return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("classify")
    tiny_towers.own(folder=folder / "base")
    return folder


def lesson(place: Path) -> Lesson:
    asked, learnt = clips(place, "test", 100), clips(place, "train", 0)
    everyone = [*asked, *learnt]
    relevant = np.array([[kind in example.tags for example in everyone] for kind in KINDS])
    return Lesson(everyone, np.arange(len(everyone)), relevant, folds(asked, learnt))


def test_it_learns_and_is_part_of_the_verdict(place: Path, tmp_path: Path):
    told: list[tuple[int, int]] = []
    teach = Classifying(tmp_path, teaching=TAUGHT, on_epoch=lambda _, done, of: told.append((done, of)))
    verdict = judge(
        {str(place / "base"): FakeEncoders()},
        clips(place, "test", 100),
        learnt=clips(place, "train", 0),
        classify=teach,
    )
    figures = {figure.name: figure for figure in verdict.bundles[str(place / "base")]}
    assert figures["fine-tuned accuracy"].value == 1.0
    assert figures["fine-tuned accuracy"].count == 8
    assert {"linear probe accuracy", "zero-shot accuracy"} <= figures.keys()
    assert told == [(epoch, 6) for epoch in range(1, 7)]


def test_what_was_stopped_goes_on_to_the_same_scores(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = lesson(place)
    whole = Classifying(tmp_path / "whole", teaching=TAUGHT)(str(place / "base"), asked)
    assert np.isfinite(whole[:, :8]).all()
    assert np.isnan(whole[:, 8:]).all()

    def stopped(_: str, done: int, __: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Classifying(tmp_path / "parts", teaching=TAUGHT, on_epoch=stopped)(str(place / "base"), asked)
    epochs: list[int] = []
    epoch = classify._Taught._epoch
    monkeypatch.setattr(classify._Taught, "_epoch", lambda self, n, *rest: (epochs.append(n), epoch(self, n, *rest))[1])
    parts = Classifying(tmp_path / "parts", teaching=TAUGHT)(str(place / "base"), asked)
    assert epochs == [3, 4, 5]
    assert np.array_equal(parts, whole, equal_nan=True)


def test_each_fold_begins_anew(place: Path, tmp_path: Path):
    asked, rest = clips(place, "one", 0), clips(place, "two", 50)
    everyone = [*asked, *rest]
    relevant = np.array([[kind in example.tags for example in everyone] for kind in KINDS])
    crossed = Lesson(everyone, np.arange(16), relevant, folds(everyone, []))
    scores = Classifying(tmp_path, teaching=TAUGHT)(str(place / "base"), crossed)
    assert np.isfinite(scores).all()
    single = Lesson(everyone, np.arange(16), relevant, crossed.rounds[1:])
    again = Classifying(tmp_path / "other", teaching=TAUGHT)(str(place / "base"), single)
    [_, (_, second)] = crossed.rounds
    assert np.array_equal(again[:, second], scores[:, second])


def test_several_kinds_a_clip_each_have_a_coin_of_their_own():
    truth = torch.tensor([[True, True], [False, True]])
    assert float(classify._loss(torch.tensor([[9.0, 9.0], [-9.0, 9.0]]), truth)) < 0.01
    one = torch.tensor([[True, False], [False, True]])
    assert float(classify._loss(torch.zeros(2, 2), one)) == pytest.approx(np.log(2))
