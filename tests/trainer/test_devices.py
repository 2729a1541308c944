"""Training on any device: torch's ``meta`` computes nothing, but refuses what lies elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from engine.errors import DeviceError
from exporters.towers import AudioConfig, AudioTower, TextConfig, TextTower
from trainer.alignment import AlignmentLesson, Targets
from trainer.devices import chosen_device, device_of
from trainer.language import TextLesson
from trainer.loop import Plan, steps_done, train

TINY = AudioConfig(stem=4, blocks=((4, 2), (8, 2), (8, 2), (8, 2)), classes=3, hidden=4, dim=4)


def test_what_is_asked_for_or_the_best(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device() == chosen_device("cpu") == torch.device("cpu")
    with pytest.raises(DeviceError, match=r"no CUDA device.*leave --device out"):
        chosen_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen_device() == chosen_device("cuda") == torch.device("cuda")
    assert chosen_device("cpu") == torch.device("cpu")


def test_all_of_a_batch_of_texts_goes_where_the_tower_is():
    tower = TextTower(TextConfig(pieces=6, max_tokens=16, layers=1, heads=1, inner=4, dim=2)).to("meta")
    lesson = TextLesson(tower, [[1, 2], [1, 3]], np.ones((2, 2), np.float16), torch.eye(2), np.ones(2))
    found = lesson(0, np.random.default_rng(0))
    assert {loss.device.type for loss in found.values()} == {"meta"}
    found["total"].backward()
    assert tower.pieces.weight.grad is not None


def test_all_of_a_batch_of_sounds_goes_where_the_tower_is():
    tower = AudioTower(TINY).to("meta")
    targets = Targets(np.ones((5, 2, 8), np.float16), torch.ones(5, 4), torch.ones(5, 4), torch.ones(5))
    found = AlignmentLesson(tower, [targets], np.ones(5))(0, np.random.default_rng(0))
    assert {loss.device.type for loss in found.values()} == {"meta"}
    found["total"].backward()
    assert tower.classifier.weight.grad is not None


def test_a_run_goes_on_where_the_model_is(tmp_path: Path):
    def losses(model: nn.Module):
        return lambda step, chance: {"total": model(torch.ones(1, 3, device=device_of(model))).square().sum()}

    model = nn.Linear(3, 1)
    assert steps_done(tmp_path) == 0
    train(model, losses(model), Plan(steps=4, rate=0.1), tmp_path, stop_after=2)
    assert steps_done(tmp_path) == 2
    # As if saved on another device: its weights are mapped to where the model lies, or the optimiser would refuse.
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert saved["model"]["weight"].device.type == "cpu"
    elsewhere = nn.Linear(3, 1).to("meta")
    trained = train(elsewhere, losses(elsewhere), Plan(steps=2, rate=0.1), tmp_path)
    assert device_of(trained).type == "meta"
    again = train(nn.Linear(3, 1), losses(model), Plan(steps=2, rate=0.1), tmp_path)
    assert torch.equal(again.weight, saved["average"]["weight"])
