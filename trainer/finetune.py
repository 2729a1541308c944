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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from exporters.base import find_base, load_base
from exporters.composing import ComposedText
from exporters.finetuned import BASE, BATCH_USED, read_a2t
from exporters.source import Source
from trainer.compose import Contrast, Heard, Told, contrasts, losses_of
from trainer.curves import Curve
from trainer.examples import Example
from trainer.gather import agreed, gathered, partners_of, sum_gradients
from trainer.loader import Batch, Loader
from trainer.loop import Plan
from trainer.run import CURVE, RunFolder
from trainer.selection import require_languages, select
from trainer.settings import BATCH, PARTS, Settings, TrainingError, check_method
from trainer.tower_sets import Towers
from trainer.translate import Translations, chance_of, chosen_languages, drawn, hub_translator, tag_of
from trainer.validation import Validation
from trainer.waveform_index import Waveform
from trainer.waveforms import Waveforms

#: How often a curve gets a row, in steps; after an epoch's end that comes sooner, the split held out isn't asked.
LOG_EVERY = 10
#: Seconds after which the end of an epoch is worth a checkpoint: small data has an epoch a step.
WORTH_SAVING_S = 30
#: A contrast needs two clips; of two, either mixture is the other.
FEWEST = {"finetune": 2, "composed": 2, "concatenate": 3}
#: The temperature is kept above this: below it one pair decides everything.
COLDEST = 0.01
#: Steps in a row that fp16's scaler may leave out while it looks for a scale: 65536 halved so often is below 0.01.
MOST_SKIPPED = 25
#: Clips named where a batch went wrong.
_NAMED = 8


@dataclass(slots=True)
class Report:
    """How a run ended.

    ``spared``: pairs that were not counted as negatives, as they say the same. ``problems``, by kind: what was left out
    of the data. ``kept_out``: unlabelled sounds that are clips of a split which isn't learnt from. ``steps_skipped``:
    those that taught nothing, as fp16 had no numbers for their gradients.
    """

    out: str
    method: str
    steps: int
    steps_planned: int
    clips: int
    unlabelled: int
    skipped: list[tuple[str, str]] = field(default_factory=list)
    problems: dict[str, int] = field(default_factory=dict)
    kept_out: int = 0
    spared: int = 0
    steps_skipped: int = 0
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
    """Run ``settings`` in the folder ``out``, from its checkpoint if there is one, to the end, Ctrl-C or SIGTERM.

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
        source = _with_a2t(load_base(base), base)
        AcceleratorState._reset_state()  # of an earlier run in this process, which may have had another precision
        self.accelerator = Accelerator(mixed_precision=settings.precision)
        self.folder = RunFolder(out)
        torch.manual_seed(settings.seed)
        composes = self.method == "composed"
        if composes and "a2t" not in settings.learn and source.compose is None:
            raise TrainingError(
                f"learn = {list(settings.learn)}, and a base without an a2t module",
                "one that has learnt, as composed texts are read with it",
                "learn a2t too, or take a base that has one",
            )
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
        if self.accelerator.is_main_process:
            self.folder.note(BATCH_USED, self.batch)
        self._before: Batch | None = None
        self._skipped_in_a_row = 0

    def _freeze(self) -> None:
        """Only the parts that ``learn`` names change."""
        held = {part for part in PARTS if getattr(self.towers, part) is not None}
        self.frozen = held - set(self.settings.learn)
        for part in self.frozen:
            getattr(self.towers, part).requires_grad_(False)
        self.log_temperature.requires_grad_(self.settings.learn_temperature)
        fresh = [*(self.towers.a2t.parameters() if self.towers.a2t is not None else ()), self.log_temperature]
        old = [*self.towers.audio.parameters(), *self.towers.text.parameters()]
        self.fresh = [parameter for parameter in fresh if parameter.requires_grad]
        self.old = [parameter for parameter in old if parameter.requires_grad]
        if not self.fresh and not self.old:
            raise TrainingError(f"learn = {list(self.settings.learn)}", "a part that the method has", "see --learn")

    def _read(self, settings: Settings, cache: Path) -> None:
        """The clips, their languages, and the loaders: what is wrong with them is said before anything is trained."""
        waveforms = Waveforms(cache, self.towers.sample_rate_hz)
        self.clips = select(settings, waveforms, self._progress)
        self._read_languages(settings, cache)
        labelled, unlabelled = self.clips.labelled, self.clips.unlabelled if self.method == "composed" else None
        batch = settings.batch or self._even_batch(waveforms, labelled, unlabelled)
        part = max(1, batch // self.accelerator.num_processes)
        self.labelled = self._loader(labelled, part, settings.seed, cache, "clips with captions")
        self.unlabelled = None
        if unlabelled is not None:
            self.unlabelled = self._loader(unlabelled, part, settings.seed + 1, cache, "sounds without captions")
        self.batch = part * self.accelerator.num_processes
        if self.batch < FEWEST[self.method]:
            raise TrainingError(
                f"a batch of {self.batch} for {self.method}",
                f"{FEWEST[self.method]} clips or more, to tell apart",
                "give more clips, or a larger --batch",
            )
        self.validation: Validation | None = None
        if asked := self.clips.validation:
            loader = self._loader(asked, 16, 0, cache, f"clips of the split {settings.held_out}", train=False)
            self.validation = Validation(loader, asked, settings.held_out)

    def _read_languages(self, settings: Settings, cache: Path) -> None:
        """Which languages come along, and translations where captions lack them."""
        clips = self.clips
        self.languages = chosen_languages(settings.languages, clips.labelled)
        if settings.translator:
            with self.accelerator.main_process_first(), self.folder.writing():  # the others find what it has written
                translate = hub_translator(settings.translator)
                made = Translations(cache / "translations.jsonl", translate, settings.translator, self._progress)
                clips.labelled = made.add(clips.labelled, self.languages, settings.seed)
        if settings.languages:
            require_languages(self.languages, clips.labelled, settings.languages)

    def _even_batch(
        self, waveforms: Waveforms, labelled: Sequence[Example], unlabelled: Sequence[Example] | None
    ) -> int:
        """The largest batch up to ``BATCH`` with which the fewest clips that can be heard are left out of an epoch."""
        lists = [labelled] if unlabelled is None else [labelled, unlabelled]
        heard = [sum(isinstance(found, Waveform) for found in waveforms.fill(clips, self._progress)) for clips in lists]
        most = max(1, min(BATCH, *heard))
        return heard[0] // -(-heard[0] // most) if heard[0] else 1

    def _loader(
        self, examples: Sequence[Example], batch: int, seed: int, cache: Path, called: str, train: bool = True
    ) -> Loader:
        """``batch`` rows of this process's; in evaluation every process hears all."""
        audio = self.towers.source.audio
        assert audio is not None
        return Loader(
            examples,
            sample_rate_hz=audio.sample_rate_hz,
            window_samples=audio.window_samples,
            hop_samples=audio.hop_samples,
            pad=audio.pad,
            batch=batch,
            seed=seed,
            cache=cache,
            rank=self.accelerator.process_index if train else 0,
            world=self.accelerator.num_processes if train else 1,
            train=train,
            called=called,
            on_progress=self._progress,
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
        saved = began
        with _stoppable() as stopped:
            for batch, others in self._batches(last - step):
                for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * plan.rate_at(step)
                losses = self._step(step, batch, others, report)
                step += 1
                report.steps, report.losses = step, losses
                ended = agreed(stopped.is_set(), self.accelerator) or step == last
                if step % LOG_EVERY == 0 or ended:
                    curve.add({"step": step, "rate": settings.rate * plan.rate_at(step), **losses})
                late = step % len(self.labelled) == 0 and agreed(
                    time.monotonic() - saved > WORTH_SAVING_S, self.accelerator
                )
                if due := step % settings.save_every == 0 or late or ended:
                    self._require_useful(step, batch, others)
                    self._save(step, report)
                    saved = time.monotonic()
                if self.validation is not None and self._asks(step, steps):
                    curve.add({"step": step, **self.validation.ask(self.towers, self.accelerator.device)})
                if due and self.accelerator.is_main_process:
                    with self.folder.writing():
                        curve.write()
                self._progress(f"training, loss {losses['total']:.3f}, step", step, steps)
                if ended:
                    break
        seconds = time.monotonic() - began
        report.clips_per_s = round((step - began_at) * self.batch / seconds, 1) if step > began_at else 0.0
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
            clips=len(self.clips.labelled),
            unlabelled=len(self.clips.unlabelled),
            skipped=[(example.name, reason) for loader in loaders for example, reason in loader.skipped],
            problems=dict(self.clips.problems),
            kept_out=self.clips.kept_out,
        )

    def _asks(self, step: int, steps: int) -> bool:
        """Whether the split held out is asked: after each epoch, or as many as make ``LOG_EVERY`` steps."""
        epoch = len(self.labelled)
        return step == steps or step % (epoch * -(-LOG_EVERY // epoch)) == 0

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
        self._train_mode()
        whole, losses = self._compared(step, batch, others)
        values = self._finite(step, batch, others, {name: float(loss.detach()) for name, loss in losses.items()})
        report.spared += sum(one.pairs.spared for one in whole.values())
        self.optimiser.zero_grad(set_to_none=True)
        accelerator.backward(losses["total"])
        every = [*self.old, *self.fresh]
        sum_gradients(every, [p for p in (self.log_temperature,) if p.requires_grad], accelerator)
        norm = accelerator.clip_grad_norm_(every, self.settings.clip)
        # A scaler leaves such a step out, and tries a smaller scale.
        if accelerator.scaler is None and norm is not None:
            self._finite(step, batch, others, {**values, "gradient": float(norm)})
        self.optimiser.step()
        self._count_skipped(step, batch, others, report)
        if not self._are_finite(every):
            raise self._diverged(step, batch, others, {**values, "weights": math.nan})
        self._before = batch
        return {name: round(value, 6) for name, value in values.items()}

    def _compared(self, step: int, batch: Batch, others: Batch | None) -> tuple[dict[str, Contrast], dict[str, Tensor]]:
        """What a batch is compared by, of all processes, and its losses."""
        accelerator = self.accelerator
        told = self._told(batch, step // len(self.labelled))
        heard = None if others is None else Heard(self._on_device(others), others.contents)
        partners = partners_of(told, accelerator) if self.method == "concatenate" else None
        # Where only sounds become words, no tower learns from captions alone.
        taught = self.method != "composed" or not self.frozen >= {"audio", "text"}
        with accelerator.autocast():
            found = contrasts(
                self.towers, self.method, told, heard, self.settings.prompt, partners=partners, captions=taught
            )
        whole = {name: gathered(_exact(one), accelerator) for name, one in found.items()}
        temperature = self.log_temperature.exp().clamp(min=COLDEST)
        return whole, losses_of(whole, temperature)

    def _finite(self, step: int, batch: Batch, others: Batch | None, values: dict[str, float]) -> dict[str, float]:
        """``values``, if they are numbers. Raises ``TrainingError``."""
        if not all(map(math.isfinite, values.values())):
            raise self._diverged(step, batch, others, values)
        return values

    def _are_finite(self, parameters: Sequence[Tensor]) -> bool:
        """Whether these, and the running means of the towers, are numbers throughout."""
        means = (one for one in self.towers.buffers() if one.is_floating_point())
        return bool(torch.stack([torch.isfinite(one.detach()).all() for one in (*parameters, *means)]).all())

    def _count_skipped(self, step: int, batch: Batch, others: Batch | None, report: Report) -> None:
        skipped = bool(self.optimiser.step_was_skipped)
        report.steps_skipped += skipped
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if self._skipped_in_a_row > MOST_SKIPPED:
            raise self._diverged(step, batch, others, {"gradient at every scale of fp16": math.nan})

    @torch.no_grad()
    def _require_useful(self, step: int, batch: Batch, others: Batch | None) -> None:
        """Ask the weights of now about the batch they come from, as a bundle of them would hear it.

        Raises ``TrainingError`` where no loss comes of it: such weights take no good checkpoint's place.
        """
        self.towers.eval()
        _, losses = self._compared(step - 1, batch, others)
        self._finite(step - 1, batch, others, {name: float(loss) for name, loss in losses.items()})

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
        return Told(self._on_device(batch), texts, torch.tensor(owner), batch.contents, spoken)

    def _on_device(self, batch: Batch) -> Tensor:
        return batch.samples.to(self.accelerator.device)

    def _train_mode(self) -> None:
        """What learns drops out; what is frozen stays as it is, its running means too."""
        self.towers.train()
        for part in self.frozen:
            getattr(self.towers, part).eval()

    def _diverged(self, step: int, batch: Batch, others: Batch | None, values: Mapping[str, float]) -> TrainingError:
        on = _named(batch) + (f", and without captions {_named(others)}" if others else "")
        told = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._before is not None and self._before is not batch:
            on += f", after learning from {_named(self._before)}"
        kept = f"; the last good checkpoint is kept in {self.folder.folder}" if self.folder.last.is_file() else ""
        return TrainingError(
            f"a loss, gradient or weight that is no number at step {step + 1} ({told}), on {on}",
            "finite ones",
            f"lower the rate, or look at these sounds{kept}",
        )

    def _save(self, step: int, report: Report) -> None:
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.folder.save(
            {
                "step": step,
                "spared": report.spared,
                "steps_skipped": report.steps_skipped,
                "model": {name: value.cpu() for name, value in self.towers.state_dict().items()},
                "log_temperature": self.log_temperature.detach().cpu(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "labelled": self.labelled.state_dict(),
                "unlabelled": None if self.unlabelled is None else self.unlabelled.state_dict(),
                "validation": None if self.validation is None else self.validation.fingerprint,
            }
        )

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
        self._require_same_validation(state.get("validation"))
        self.labelled.load_state_dict(state["labelled"])
        if self.unlabelled is not None:
            self.unlabelled.load_state_dict(state["unlabelled"])
        report.spared, report.steps = int(state["spared"]), int(state["step"])
        report.steps_skipped = int(state.get("steps_skipped", 0))
        return report.steps

    def _require_same_validation(self, there: str | None) -> None:
        now = None if self.validation is None else self.validation.fingerprint
        if there != now:
            raise TrainingError(
                f"other clips or captions on the split {self.settings.held_out} than the run began with",
                "the same, so that one curve asks one question",
                "go on with what the run began with, or give another --out",
            )

    def _progress(self, told: str, done: int, total: int) -> None:
        if self.accelerator.is_main_process:
            self._on_progress(told, done, total)


def _with_a2t(source: Source, base: Path) -> Source:
    """The source with the module that a bundle of it has; that of a run comes with it."""
    a2t = read_a2t(base) if source.compose is None and source.text is not None else None
    if a2t is None or source.text is None:
        return source
    return replace(source, compose=ComposedText(source.text.module, a2t))  # type: ignore[arg-type]


def _exact(contrast: Contrast) -> Contrast:
    """In float32, whatever the towers computed in."""
    return Contrast(
        contrast.sounds.float(), contrast.texts.float(), contrast.owner, contrast.sound_keys, contrast.text_keys
    )


def _named(batch: Batch) -> str:
    names = [example.name for example in batch.examples]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _endless(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


def _seed(*parts: int) -> int:
    """One number from several, for torch."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM asks for the end of the step, so that what is saved is whole; a second one ends at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        back()

    def back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        back()
