"""A training loop that can be killed at any instruction and goes on with exactly the same numbers.

All chance of a step comes from ``(seed, step)``, so a checkpoint needs only weights, optimiser and the step.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from trainer.cache import write_atomic
from trainer.devices import device_of

#: ``(step, chance) -> named losses``; ``total`` is what is minimised, the others are logged.
StepLosses = Callable[[int, np.random.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast to learn: steps, peak learning rate, what is decayed, how often to save."""

    steps: int
    rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.999
    save_every: int = 200
    log_every: int = 50
    seed: int = 1

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero (arXiv:1608.03983, eq. 5, one period)."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def train(
    model: nn.Module,
    losses: StepLosses,
    plan: Plan,
    folder: Path,
    stop_after: int | None = None,
) -> nn.Module:
    """Train ``model`` in place until ``plan.steps``, resuming from ``folder/last.pt``; return it with averaged weights.

    Parameters that ask for no gradient stay as they are. Curves go to ``folder/curve.csv``. The model learns where it
    lies; what another device has saved is gone on from.
    ``stop_after`` ends this call after that step, as a kill would, but saved.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=plan.rate, weight_decay=plan.weight_decay, betas=(0.9, 0.98))
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    step = _resume(folder / "last.pt", model, optimiser, average)
    curve = _Curve(folder / "curve.csv", step)
    last = plan.steps if stop_after is None else min(plan.steps, stop_after)
    model.train()
    while step < last:
        for group in optimiser.param_groups:
            group["lr"] = plan.rate_at(step)
        found = losses(step, np.random.default_rng([plan.seed, step]))
        optimiser.zero_grad(set_to_none=True)
        found["total"].backward()
        nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimiser.step()
        step += 1
        _follow(average, model, min(plan.average, step / (step + 10)))
        curve.add(step, found, plan)
        if step % plan.save_every == 0 or step == last:
            curve.flush()
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "average": average, "step": step}
            write_atomic(folder / "last.pt", lambda path, state=state: torch.save(state, path))
    model.load_state_dict(average)
    return model.eval()


def steps_done(folder: Path) -> int:
    """The step that ``folder/last.pt`` was saved at; 0 where there is none."""
    path = folder / "last.pt"
    return int(torch.load(path, map_location="meta", weights_only=True)["step"]) if path.is_file() else 0


def without_optimiser(folder: Path, path: Path) -> Path:
    """The checkpoint of a training that is over, written to ``path`` as its averaged weights alone: a quarter."""
    saved = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    average = saved["average"]
    write_atomic(path, lambda draft: torch.save({"model": average, "average": average, "step": saved["step"]}, draft))
    return path


def minutes(folder: Path) -> float:
    """How long the steps logged in ``folder/curve.csv`` took, kills and pauses between them left out."""
    with (folder / "curve.csv").open(newline="", encoding="utf-8") as stream:
        marks = [0.0, *(float(row["s"]) for row in csv.DictReader(stream))]
    # The clock starts again with each run.
    return sum(b - a if b >= a else b for a, b in pairwise(marks)) / 60


def _resume(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Load what was saved, if anything was; the step to go on from."""
    if not path.is_file():
        return 0
    saved = torch.load(path, map_location=device_of(model), weights_only=True)
    model.load_state_dict(saved["model"])
    if "optimiser" in saved:
        optimiser.load_state_dict(saved["optimiser"])
    average.update(saved["average"])
    return int(saved["step"])


@torch.no_grad()
def _follow(average: dict[str, Tensor], model: nn.Module, keep: float) -> None:
    """Move the running mean of the weights towards the model."""
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            average[name].lerp_(value, 1 - keep)


class _Curve:
    """Means of the losses between log lines, one CSV row each; rows after the resumed step are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self._path, self._sums, self._count, self._began = path, dict[str, float](), 0, time.monotonic()
        self._rows: list[dict[str, str]] = []
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as stream:
                self._rows = [row for row in csv.DictReader(stream) if int(row["step"]) <= step]

    def add(self, step: int, found: Mapping[str, Tensor], plan: Plan) -> None:
        for name, value in found.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        self._count += 1
        if step % plan.log_every == 0:
            means = {name: f"{value / self._count:.6g}" for name, value in self._sums.items()}
            seconds = time.monotonic() - self._began
            self._rows.append({"step": str(step), "rate": f"{plan.rate_at(step):.3g}", "s": f"{seconds:.1f}", **means})
            print(json.dumps(self._rows[-1]), flush=True)
            self._sums, self._count = {}, 0

    def flush(self) -> None:
        if self._rows:
            write_rows(self._path, self._rows)


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """A CSV table, whole or as it was, with the columns of its last row."""

    def write(draft: Path) -> None:
        with draft.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[-1]), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)

    write_atomic(path, write)
