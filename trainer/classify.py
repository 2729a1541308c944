"""Fine-tuned classification: a bundle's audio tower learns kinds of sounds, with a linear head upon it.

How well a tower can be taught, beside what it knows (zero-shot) and what it holds ready (``trainer.probe``). All
settings are ours; the clips asked about have no part in them. An epoch is saved whole, and the same call goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from exporters.base import find_base, load_base
from exporters.errors import SourceError
from exporters.source import AudioPart, Source
from trainer.cache import write_atomic
from trainer.examples import Example
from trainer.loader import Batch, Loader
from trainer.loop import Plan
from trainer.metrics import Floats
from trainer.verdict import Lesson


@dataclass(frozen=True, slots=True)
class Teaching:
    """How a tower is taught: peak rates of the tower and of the head, a cosine with a tenth of warm-up, Adam."""

    epochs: int = 20
    batch: int = 32
    rate: float = 1e-4
    head_rate: float = 1e-3
    clip: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Classifying:
    """Teaches bundles, by name; work is kept in ``folder``. ``on_epoch``: the bundle, epochs done, and all there are.

    A call returns the scores that a lesson wants; NaN for clips that no round asks about. Raises ``SourceError`` for a
    bundle whose towers can't be taught, ``DataError``.
    """

    folder: Path
    bundles: Path | None = None
    teaching: Teaching = Teaching()
    on_epoch: Callable[[str, int, int], None] = lambda *_: None

    def __call__(self, name: str, lesson: Lesson) -> Floats:
        """See the class."""
        examples, relevant, rounds = lesson.examples, lesson.relevant, lesson.rounds
        base = find_base(name, self.bundles)
        found = np.full(relevant.shape, np.nan)
        for number, (learnt, asked) in enumerate(rounds):
            source = load_base(base)  # from the start each time: no fold may know another
            if source.audio is None:
                raise SourceError(f"{source.name} without an audio tower", "one", "choose another bundle")

            def told(done: int, number: int = number) -> None:
                epochs = self.teaching.epochs
                self.on_epoch(name, number * epochs + done, len(rounds) * epochs)

            taught = _Taught(source, source.audio, self.teaching, self.folder, told)
            part = [examples[row] for row in learnt]
            taught.learn(part, torch.from_numpy(relevant[:, learnt].T.copy()))
            found[:, asked] = taught.ask([examples[row] for row in asked]).T
        return found


class _Taught:
    """One tower with its head."""

    def __init__(
        self, source: Source, audio: AudioPart, teaching: Teaching, folder: Path, told: Callable[[int], None]
    ) -> None:
        self._source, self._audio, self._teaching, self._folder, self._told = source, audio, teaching, folder, told
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def learn(self, examples: Sequence[Example], truth: Tensor) -> None:
        """``truth [n, classes]``, of each example; from the last whole epoch, if there is one."""
        teaching = self._teaching
        torch.manual_seed(teaching.seed)
        head = nn.Linear(self._source.dim, truth.shape[1])
        nn.init.zeros_(head.weight)
        self._model = nn.ModuleDict({"tower": self._audio.module, "head": head}).to(self._device)
        rows = {example.id: row for row, example in enumerate(examples)}
        loader = self._loader(examples, min(teaching.batch, len(examples)), train=True)
        optimiser = torch.optim.Adam(
            [
                {"params": self._model["tower"].parameters(), "peak": teaching.rate},
                {"params": head.parameters(), "peak": teaching.head_rate},
            ]
        )
        steps = teaching.epochs * len(loader)
        plan = Plan(steps, 1.0, warmup=max(1, steps // 10))
        path = self._folder / f"classifier-{self._known_as(examples, truth)}.pt"
        for epoch in range(self._resumed(path, optimiser), teaching.epochs):
            self._epoch(epoch, loader, optimiser, plan, rows, truth)
            state = {"epoch": epoch + 1, "model": self._model.state_dict(), "optimiser": optimiser.state_dict()}
            write_atomic(path, lambda draft, state=state: torch.save(state, draft))  # type: ignore[misc]
            self._told(epoch + 1)

    def _epoch(
        self,
        epoch: int,
        loader: Loader,
        optimiser: torch.optim.Optimizer,
        plan: Plan,
        rows: dict[str, int],
        truth: Tensor,
    ) -> None:
        torch.manual_seed(self._teaching.seed + epoch)  # of dropout
        self._model.train()
        loader.set_epoch(epoch)
        for number, batch in enumerate(loader):
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * plan.rate_at(epoch * len(loader) + number)
            wanted = truth[[rows[example.id] for example in batch.examples]].to(self._device)
            loss = _loss(self._scores(batch), wanted)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), self._teaching.clip)
            optimiser.step()

    def _scores(self, batch: Batch) -> Tensor:
        """``[rows, classes]``. A tower's vectors have length 1, so each number is small: the head gets them wider."""
        vectors = self._model["tower"](batch.samples.to(self._device)) * self._source.dim**0.5
        scores: Tensor = self._model["head"](vectors)
        return scores

    @torch.inference_mode()
    def ask(self, examples: Sequence[Example]) -> Floats:
        """Scores ``[n, classes]``: the mean over each clip's windows."""
        self._model.eval()
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for batch in self._loader(examples, self._teaching.batch, train=False):
            for example, scores in zip(batch.examples, self._scores(batch).double().cpu(), strict=True):
                sums[example.id] = sums.get(example.id, torch.zeros_like(scores)) + scores
                counts[example.id] = counts.get(example.id, 0) + 1
        found = torch.stack([sums[example.id] / counts[example.id] for example in examples])
        return np.asarray(found.numpy(), np.float64)

    def _loader(self, examples: Sequence[Example], batch: int, train: bool) -> Loader:
        return Loader(
            examples,
            sample_rate_hz=self._audio.sample_rate_hz,
            window_samples=self._audio.window_samples,
            hop_samples=self._audio.hop_samples,
            pad=self._audio.pad,
            batch=batch,
            seed=self._teaching.seed,
            cache=self._folder / "cache",
            train=train,
        )

    def _resumed(self, path: Path, optimiser: torch.optim.Optimizer) -> int:
        """How many epochs are done, all as it was after them."""
        if not path.is_file():
            return 0
        state: dict[str, Any] = torch.load(path, map_location=self._device, weights_only=True)
        self._model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        return int(state["epoch"])

    def _known_as(self, examples: Sequence[Example], truth: Tensor) -> str:
        """The same where the same is to be learnt by the same tower in the same way."""
        told = hashlib.sha256(repr((self._source.space_id, self._teaching)).encode())
        told.update("\0".join(example.name for example in examples).encode())
        told.update(truth.numpy().tobytes())
        return told.hexdigest()[:12]


def _loss(scores: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy where each clip is of one kind, else a coin for each kind; ``[n, classes]`` both."""
    if (truth.sum(dim=1) == 1).all():
        return functional.cross_entropy(scores, truth.int().argmax(dim=1))
    return functional.binary_cross_entropy_with_logits(scores, truth.to(scores.dtype))
