"""A killed training goes on with exactly the numbers it would have had."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trainer.loop import Plan, minutes, steps_done, train, without_optimiser

PLAN = Plan(steps=30, rate=0.05, warmup=5, save_every=10, log_every=5, seed=3)


def run(folder: Path, *stops: int) -> tuple[nn.Module, list[dict[str, str]], list[float]]:
    """Train a line on noisy points, stopped after each of ``stops``; the averaged model, its curve, all losses."""
    seen: list[float] = []
    for stop in (*stops, None):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)

        def losses(step: int, chance: np.random.Generator, model: nn.Module = model) -> dict[str, torch.Tensor]:
            x = torch.from_numpy(chance.standard_normal((8, 3)).astype(np.float32))
            loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
            seen.append(float(loss.detach()))
            return {"total": loss, "twice": 2 * loss}

        train(model, losses, PLAN, folder, stop_after=stop)
    with (folder / "curve.csv").open(newline="") as stream:
        rows = [{k: v for k, v in row.items() if k != "s"} for row in csv.DictReader(stream)]
    return model, rows, seen


def test_resumed_is_exactly_undisturbed(tmp_path):
    whole, whole_curve, whole_losses = run(tmp_path / "whole")
    broken, broken_curve, broken_losses = run(tmp_path / "broken", 10, 15, 25)
    assert broken_losses == whole_losses
    assert torch.equal(whole.weight, broken.weight)
    assert broken_curve == whole_curve
    assert [int(row["step"]) for row in whole_curve] == [5, 10, 15, 20, 25, 30]


def test_a_kill_between_saves_repeats_the_lost_steps(tmp_path):
    _, _, whole = run(tmp_path / "whole")
    torch.manual_seed(0)
    model, seen = nn.Linear(3, 1), []

    def dies(step: int, chance: np.random.Generator) -> dict[str, torch.Tensor]:
        if step == 17:
            raise KeyboardInterrupt
        x = torch.from_numpy(chance.standard_normal((8, 3)).astype(np.float32))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        seen.append(float(loss.detach()))
        return {"total": loss}

    with pytest.raises(KeyboardInterrupt):
        train(model, dies, PLAN, tmp_path / "killed")
    assert seen == whole[:17]
    _, _, rest = run(tmp_path / "killed")
    assert rest == whole[10:]


def test_it_learns_and_the_rate_rises_and_falls(tmp_path):
    _, _, losses = run(tmp_path)
    assert np.mean(losses[-5:]) < 0.2 * np.mean(losses[:5])
    rates = [PLAN.rate_at(step) for step in range(31)]
    assert rates[4] == pytest.approx(PLAN.rate)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_weights_alone_are_what_was_learnt(tmp_path):
    whole, _, _ = run(tmp_path / "whole")
    (tmp_path / "slim").mkdir()
    shutil.copyfile(tmp_path / "whole" / "curve.csv", tmp_path / "slim" / "curve.csv")
    slim = without_optimiser(tmp_path / "whole", tmp_path / "slim" / "last.pt")
    assert torch.equal(run(tmp_path / "slim")[0].weight, whole.weight)
    assert slim.stat().st_size < (tmp_path / "whole" / "last.pt").stat().st_size
    assert steps_done(tmp_path / "slim") == PLAN.steps


def test_minutes_are_those_of_all_runs(tmp_path):
    (tmp_path / "curve.csv").write_text("step,s\n50,60.0\n100,120.0\n150,30.0\n", encoding="utf-8")
    assert minutes(tmp_path) == pytest.approx(2.5)
