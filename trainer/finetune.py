"""Fine-tuning both towers on somebody's own sounds: the loop, and nothing that ``compose`` or ``run`` say better.

All chance of a step comes from the seed, the step and the process, and all chance of a batch from the loader, whose
place is in the checkpoint: a run that was stopped and goes on ends in the same numbers as one that was not.
"""

from __future__ import annotations

import hashlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from exporters.base import find_base, load_base
from exporters.finetuned import BASE
from trainer.compose import Contrast, Heard, Told, contrasts, losses_of
from trainer.curves import Curve
from trainer.examples import Example
from trainer.gather import gathered, sum_gradients
from trainer.loader import Batch, Loader
from trainer.loop import Plan
from trainer.manifest import read_data
from trainer.metrics import hits_at
from trainer.run import CURVE, RunFolder
from trainer.settings import BATCH, Settings, TrainingError, check_method
from trainer.tower_sets import Towers
from trainer.translate import Translations, chance_of, chosen_languages, drawn, hub_translator, tag_of

#: How often a curve gets a row, in steps.
LOG_EVERY = 10
#: The temperature is kept above this: below it one pair decides everything.
COLDEST = 0.01
#: Clips named where a batch went wrong.
_NAMED = 8


@dataclass(slots=True)
class Report:
    """How a run ended. ``spared``: pairs that were not counted as negatives, as they say the same."""

    out: str
    method: str
    steps: int
    steps_planned: int
    clips: int
    unlabelled: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    spared: int = 0
    clips_per_s: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return asdict(self)


def finetune(
    settings: Settings,
    out: Path,
    *,
    bundles: Path | None = None,
    cache: Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
    stop_after: int | None = None,
) -> Report:
    """Run ``settings`` in the folder ``out``, from its checkpoint if there is one, to the end or to Ctrl-C.

    Args:
        settings: What to do.
        out: The run's folder; see ``trainer.run``.
        bundles: Where bundles are registered, for ``settings.base``.
        cache: Where decoded sounds are kept; default: ``cache`` in ``out``.
        on_progress: Told what is being done, how much is done, of how much.
        stop_after: End after that step, as Ctrl-C would.

    Raises ``TrainingError``, ``DataError``, ``SourceError``, ``QueryError``.
    """
    run = _Run(settings, out, bundles, cache or out / "cache", on_progress)
    return run.go(stop_after)


class _Run:
    """One process's part in a run."""

    def __init__(
        self, settings: Settings, out: Path, bundles: Path | None, cache: Path, on_progress: Callable[..., None]
    ) -> None:
        self.settings, self.method, self._on_progress = settings, check_method(settings.method), on_progress
        base = find_base(settings.base, bundles)
        source = load_base(base)
        AcceleratorState._reset_state()  # of an earlier run in this process, which may have had another precision
        self.accelerator = Accelerator(mixed_precision=settings.precision)
        self.folder = RunFolder(out)
        torch.manual_seed(settings.seed)
        composes = self.method == "composed"
        self.towers = Towers(source, composes=composes, patch_dropout=settings.patch_dropout, dropout=settings.dropout)
        self.towers.to(self.accelerator.device)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(settings.temperature), device=self.accelerator.device)
        )
        self._freeze()
        facts = {BASE: {"path": str(base), "space_id": source.space_id}, "dim": source.dim}
        self.resumes = self.folder.begin(settings, facts) if self.accelerator.is_main_process else False
        self.accelerator.wait_for_everyone()
        self.resumes = self.resumes or (not self.accelerator.is_main_process and self.folder.last.is_file())
        self._read(settings, cache)

    def _freeze(self) -> None:
        """Only the parts that ``learn`` names change."""
        for part in ("audio", "text", "a2t"):
            module = getattr(self.towers, part)
            if module is not None and part not in self.settings.learn:
                module.requires_grad_(False)
        self.log_temperature.requires_grad_(self.settings.learn_temperature)
        fresh = [*(self.towers.a2t.parameters() if self.towers.a2t is not None else ()), self.log_temperature]
        old = [*self.towers.audio.parameters(), *self.towers.text.parameters()]
        self.fresh = [parameter for parameter in fresh if parameter.requires_grad]
        self.old = [parameter for parameter in old if parameter.requires_grad]
        if not self.fresh and not self.old:
            raise TrainingError(f"learn = {list(self.settings.learn)}", "a part that the method has", "see --learn")

    def _read(self, settings: Settings, cache: Path) -> None:
        """The clips, their languages, and the loaders."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        data = read_data(Path(settings.data).expanduser())
        examples = [example for example in data.split("train") if example.captions]
        if not examples:
            raise TrainingError(f"no clip with a caption in {settings.data}", "some on the split train", "add captions")
        self.languages = chosen_languages(settings.languages, examples)
        if settings.translator:
            self._progress("translating", 0, 0)
            with self.accelerator.main_process_first():  # the others find what it has written
                made = Translations(cache / "translations.jsonl", hub_translator(settings.translator))
                examples = made.add(examples, self.languages, settings.seed)
        batch = settings.batch or min(BATCH, len(examples))
        self.clips = examples
        self.labelled = self._loader(examples, batch, settings.seed, cache, rank, world)
        self.unlabelled: Loader | None = None
        self.unlabelled_clips = 0
        if self.method == "composed":
            others = read_data(Path(str(settings.unlabelled)).expanduser()).examples
            self.unlabelled_clips = len(others)
            self.unlabelled = self._loader(others, batch, settings.seed + 1, cache, rank, world)
        self.validation = [example for example in data.examples if example.split == "val" and example.captions]
        self._cache = cache

    def _loader(self, examples: Sequence[Example], batch: int, seed: int, cache: Path, rank: int, world: int) -> Loader:
        audio = self.towers.source.audio
        assert audio is not None
        return Loader(
            examples,
            sample_rate_hz=audio.sample_rate_hz,
            window_samples=audio.window_samples,
            hop_samples=audio.hop_samples,
            pad=audio.pad,
            batch=max(1, batch // world),
            seed=seed,
            cache=cache,
            rank=rank,
            world=world,
        )

    def go(self, stop_after: int | None) -> Report:
        """All steps that are left."""
        settings = self.settings
        steps = settings.epochs * len(self.labelled)
        plan = Plan(steps=steps, rate=1.0, warmup=round(settings.warmup * steps))
        groups = [(self.old, settings.rate), (self.fresh, settings.a2t_rate)]
        rates = [rate for parameters, rate in groups if parameters]
        adam = torch.optim.Adam([{"params": parameters} for parameters, _ in groups if parameters])
        self.optimiser = self.accelerator.prepare(adam)
        report = self._new_report(steps)
        step = self._resume(report)
        curve = Curve(self.folder.folder / CURVE, step)
        last = steps if stop_after is None else min(steps, stop_after)
        began, began_at = time.monotonic(), step
        with _stoppable() as stopped:
            for batch, others in self._batches(last - step):
                for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * plan.rate_at(step)
                losses = self._step(step, batch, others, report)
                step += 1
                report.steps, report.losses = step, losses
                ended = step == last or stopped.is_set()
                if step % LOG_EVERY == 0 or ended:
                    curve.add({"step": step, "rate": settings.rate * plan.rate_at(step), **losses})
                if step % len(self.labelled) == 0 and self.validation:
                    curve.add({"step": step, **self._validate()})
                if step % settings.save_every == 0 or step % len(self.labelled) == 0 or ended:
                    self._save(step, report, curve)
                self._progress(f"training, loss {losses['total']:.3f}, step", step, steps)
                if ended:
                    break
        seconds = time.monotonic() - began
        report.clips_per_s = round((step - began_at) * self._batch_clips() / seconds, 1) if step > began_at else 0.0
        report.interrupted = step < steps and stopped.is_set()
        self.accelerator.wait_for_everyone()
        return report

    def _new_report(self, steps: int) -> Report:
        loaders = [loader for loader in (self.labelled, self.unlabelled) if loader is not None]
        return Report(
            out=str(self.folder.folder),
            method=self.settings.method,
            steps=0,
            steps_planned=steps,
            clips=len(self.clips),
            unlabelled=self.unlabelled_clips,
            skipped=[(example.name, reason) for loader in loaders for example, reason in loader.skipped],
        )

    def _batch_clips(self) -> int:
        return self.settings.batch or min(BATCH, len(self.clips))

    def _batches(self, count: int) -> Iterator[tuple[Batch, Batch | None]]:
        """``count`` batches, epoch after epoch, each with one of sounds without captions where the method wants it."""
        labelled = _endless(self.labelled)
        unlabelled = None if self.unlabelled is None else _endless(self.unlabelled)
        for _ in range(count):
            yield next(labelled), None if unlabelled is None else next(unlabelled)

    def _step(self, step: int, batch: Batch, others: Batch | None, report: Report) -> dict[str, float]:
        """One step of the optimiser; its losses."""
        accelerator = self.accelerator
        torch.manual_seed(_seed(self.settings.seed, step, accelerator.process_index))
        self.towers.train()
        told = self._told(batch, step // len(self.labelled))
        heard = None if others is None else Heard(self._on_device(others), [one.id for one in others.examples])
        with accelerator.autocast():
            found = contrasts(self.towers, self.method, told, heard, self.settings.prompt)
        whole = {name: gathered(_exact(one), accelerator) for name, one in found.items()}
        temperature = self.log_temperature.exp().clamp(min=COLDEST)
        losses = losses_of(whole, temperature)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not all(map(math.isfinite, values.values())):
            raise self._diverged(step, batch, values)
        report.spared += sum(one.pairs.spared for one in whole.values())
        self.optimiser.zero_grad(set_to_none=True)
        accelerator.backward(losses["total"])
        every = [*self.old, *self.fresh]
        sum_gradients(every, [p for p in (self.log_temperature,) if p.requires_grad], accelerator)
        norm = accelerator.clip_grad_norm_(every, self.settings.clip)
        if self.settings.precision != "fp16" and norm is not None and not math.isfinite(float(norm)):
            raise self._diverged(step, batch, {**values, "gradient": float(norm)})
        self.optimiser.step()
        return {name: round(value, 6) for name, value in values.items()}

    def _told(self, batch: Batch, epoch: int) -> Told:
        """The batch with the captions that this epoch drew for it."""
        settings = self.settings
        texts: list[str] = []
        owner: list[int] = []
        spoken: list[str] = []
        assert self.towers.source.text is not None
        for row, example in enumerate(batch.examples):
            chance = chance_of(settings.seed, epoch, example)
            for caption in drawn(example, self.languages, settings.le_ratio, settings.captions == "all", chance):
                texts.append(tag_of(self.towers.source.text.tokenizer, caption.lang) + caption.text)
                owner.append(row)
                spoken.append(caption.lang)
        ids = [example.id for example in batch.examples]
        return Told(self._on_device(batch), texts, torch.tensor(owner), ids, spoken)

    def _on_device(self, batch: Batch) -> Tensor:
        return batch.samples.to(self.accelerator.device)

    def _diverged(self, step: int, batch: Batch, values: Mapping[str, float]) -> TrainingError:
        names = [example.name for example in batch.examples]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        return TrainingError(
            f"a loss that is no number at step {step + 1} ({told}), on {', '.join(names[:_NAMED])}{more}",
            "finite ones",
            f"lower the rate, or look at these sounds; the last good checkpoint is kept in {self.folder.folder}",
        )

    def _save(self, step: int, report: Report, curve: Curve) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.folder.save(
            {
                "step": step,
                "spared": report.spared,
                "model": {name: value.cpu() for name, value in self.towers.state_dict().items()},
                "log_temperature": self.log_temperature.detach().cpu(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "labelled": self.labelled.state_dict(),
                "unlabelled": None if self.unlabelled is None else self.unlabelled.state_dict(),
            }
        )
        curve.write()

    def _resume(self, report: Report) -> int:
        """The step to go on from, all as it was there."""
        if not self.resumes:
            return 0
        state = self.folder.load()
        self.towers.load_state_dict(state["model"])
        with torch.no_grad():
            self.log_temperature.copy_(state["log_temperature"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"] is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.labelled.load_state_dict(state["labelled"])
        if self.unlabelled is not None:
            self.unlabelled.load_state_dict(state["unlabelled"])
        report.spared, report.steps = int(state["spared"]), int(state["step"])
        return report.steps

    @torch.inference_mode()
    def _validate(self) -> dict[str, float]:
        """R@1 both ways on the split ``val``: a clip is the mean of its windows, any of its captions is right."""
        self.towers.eval()
        audio = self.towers.source.audio
        assert audio is not None
        rows = Loader(
            self.validation,
            sample_rate_hz=audio.sample_rate_hz,
            window_samples=audio.window_samples,
            hop_samples=audio.hop_samples,
            pad=audio.pad,
            batch=16,
            seed=0,
            cache=self._cache,
            train=False,
        )
        sums: dict[str, Tensor] = {}
        for batch in rows:
            for example, vector in zip(batch.examples, self.towers.encode_audio(self._on_device(batch)), strict=True):
                sums[example.id] = sums.get(example.id, torch.zeros_like(vector)) + vector
        clips = [example for example in self.validation if example.id in sums]
        sounds = nn.functional.normalize(torch.stack([sums[clip.id] for clip in clips]), dim=1)
        texts = [(row, caption.text) for row, clip in enumerate(clips) for caption in clip.captions]
        owner = np.array([row for row, _ in texts])
        scores = (sounds @ self.towers.encode_texts([text for _, text in texts]).T).float().cpu().numpy()
        right = owner[None] == np.arange(len(clips))[:, None]
        return {
            "val text-to-audio R@1": float(hits_at(scores.T, right.T, 1).mean()),
            "val audio-to-text R@1": float(hits_at(scores, right, 1).mean()),
        }

    def _progress(self, told: str, done: int, total: int) -> None:
        if self.accelerator.is_main_process:
            self._on_progress(told, done, total)


def _exact(contrast: Contrast) -> Contrast:
    """In float32, whatever the towers computed in."""
    return Contrast(
        contrast.sounds.float(), contrast.texts.float(), contrast.owner, contrast.sound_keys, contrast.text_keys
    )


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def _seed(*parts: int) -> int:
    """One number from several, for torch."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C asks for the end of the step, so that what is saved is whole; a second one ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
