"""What a run of fine-tuning is told, and what it leaves: settings, checkpoints, curves.

A run's folder holds ``run.json`` (settings, base), ``last.pt`` (all that is needed to go on, or to export), and the
curves ``curve.jsonl`` and ``curve.svg``. Everything is written beside its place, flushed and renamed: whenever a run is
killed, the last whole checkpoint is there.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_type_hints

import torch

from engine.errors import EarshotError
from exporters.composing import DROPOUT
from trainer.cache import write_atomic
from trainer.compose import PROMPT, check_method

RUN, LAST, CURVE = "run.json", "last.pt", "curve.jsonl"
FORMAT = 1
PARTS = ("audio", "text", "a2t")
PRECISIONS = ("no", "bf16", "fp16")
#: The seed's batch (composed-text, section 4.2); a smaller data set is one batch.
BATCH = 256


class TrainingError(EarshotError):
    """A run that can't begin, or can't go on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. The defaults are the papers', where they say; where they are silent, ours, marked so.

    ``base``, ``data``, ``unlabelled``: what to start from, what to learn from, and sounds without captions.
    ``epochs``, ``batch`` (default: 256, or all clips if there are fewer), ``method``, ``prompt``: composed-text seed,
    sections 3 and 4.2. ``rate`` and ``temperature``: language-enhancement seed, section 3.3. ``le_ratio``: its section
    4.5, for each of ``languages``. ``patch_dropout``: its section 3.2.

    Ours: ``a2t_rate`` (the a2t module starts from nothing, the towers don't), ``warmup`` (share of the steps), ``clip``
    (largest norm of the gradient), ``dropout`` in the a2t module, ``seed``, ``learn`` (which parts change),
    ``captions`` (``one`` of a language an epoch, or ``all`` as soft targets), ``precision``, ``save_every`` (steps).
    """

    data: str
    base: str = "starter"
    unlabelled: str | None = None
    method: str = "finetune"
    epochs: int = 30
    batch: int | None = None
    rate: float = 5e-5
    a2t_rate: float = 1e-3
    warmup: float = 0.05
    clip: float = 1.0
    temperature: float = 0.07
    learn_temperature: bool = False
    captions: str = "one"
    languages: tuple[str, ...] = ()
    le_ratio: float = 0.1
    translator: str | None = None
    prompt: str = PROMPT
    dropout: float = DROPOUT
    patch_dropout: float = 0.25
    learn: tuple[str, ...] = PARTS
    precision: str = "no"
    seed: int = 1
    save_every: int = 200

    def __post_init__(self) -> None:
        check_method(self.method)
        self._check("captions", self.captions in ("one", "all"), "one or all")
        self._check("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}")
        self._check("learn", bool(self.learn) and set(self.learn) <= set(PARTS), f"some of {', '.join(PARTS)}")
        self._check("batch", self.batch is None or self.batch >= 2, "two clips or more, to tell apart")
        for name in ("epochs", "save_every", "rate", "a2t_rate", "clip", "temperature"):
            self._check(name, getattr(self, name) > 0, "a positive number")
        for name in ("warmup", "le_ratio", "dropout", "patch_dropout"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        if self.method == "composed" and not self.unlabelled:
            raise TrainingError("method composed without unlabelled sounds", "a folder of them", "give --unlabelled")

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise TrainingError(f"{name} = {getattr(self, name)!r}", expected, "see `earshot train finetune --help`")

    def to_dict(self) -> dict[str, Any]:
        """As JSON and TOML have it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def read_settings(config: Path | None, given: Mapping[str, Any]) -> Settings:
    """A TOML file's settings with ``given`` ones, not None, in their place. Raises ``TrainingError``."""
    told: dict[str, Any] = {}
    if config is not None:
        try:
            told = tomllib.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{config} ({error})", "a TOML file", "check it") from error
    told |= {name: value for name, value in given.items() if value is not None}
    kinds = get_type_hints(Settings)
    for name, value in told.items():
        if name not in kinds:
            near = get_close_matches(name, kinds)
            raise TrainingError(
                f"the setting {name!r}", f"one of {', '.join(kinds)}", f"perhaps {near[0]}?" if near else "remove it"
            )
        told[name] = _fitting(name, value, kinds[name])
    if "data" not in told:
        raise TrainingError("no data", "captioned sounds", "give --data, see `earshot train check --help`")
    return Settings(**told)


def _fitting(name: str, value: Any, kind: Any) -> Any:
    """The value as its field has it. Raises ``TrainingError`` for one of another kind."""
    if kind == tuple[str, ...] and isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = {float: float, bool: bool, int: int, str: str, int | None: int, str | None: str}.get(kind)
    if plain is None or not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        expected = "a list of texts" if plain is None else f"a value of type {plain.__name__}"
        raise TrainingError(f"{name} = {value!r}", expected, "check the config")
    return value


class RunFolder:
    """Where a run lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def last(self) -> Path:
        """The latest checkpoint."""
        return self.folder / LAST

    def begin(self, settings: Settings, facts: Mapping[str, Any]) -> bool:
        """Write down what is to be done; whether there is a checkpoint to go on from.

        Raises ``TrainingError`` for a folder with other things in it, or a run with other settings, with what differs.
        """
        path = self.folder / RUN
        told = {"format": FORMAT, "settings": settings.to_dict(), **facts}
        if path.is_file():
            self._require_same(json.loads(path.read_text(encoding="utf-8")), told)
            return self.last.is_file()
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise TrainingError(f"{self.folder}, which holds other things", "a new folder, or a run's", "choose --out")
        write_atomic(
            path, lambda draft: draft.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
        )
        return False

    def _require_same(self, there: Mapping[str, Any], told: Mapping[str, Any]) -> None:
        was, now = ({**one["settings"], **{k: v for k, v in one.items() if k != "settings"}} for one in (there, told))
        changed = [
            f"{name}: {was.get(name)!r} there, {now.get(name)!r} now" for name in now if was.get(name) != now[name]
        ]
        if changed:
            raise TrainingError(
                f"{self.folder} with other settings ({'; '.join(changed)})",
                "the same, to go on with it",
                "give the same settings, or another --out",
            )

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint. Raises ``TrainingError`` where it can't be written; the one before then stays."""
        draft = self.last.with_name(f"{LAST}.draft")
        try:
            write_atomic(self.last, lambda path: torch.save(dict(state), path))
        except (OSError, RuntimeError) as error:  # torch wraps a full disk in a RuntimeError
            draft.unlink(missing_ok=True)
            raise TrainingError(
                f"a checkpoint that can't be written to {self.folder} ({error})",
                "room for it",
                "make room; the same command goes on from the last one",
            ) from error

    def load(self) -> dict[str, Any]:
        """The latest checkpoint. Raises ``TrainingError`` where it can't be read."""
        try:
            state: dict[str, Any] = torch.load(self.last, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle, zip and torch share no class
            raise TrainingError(
                f"{self.last} ({error})", "a checkpoint", "remove it, and the run begins anew"
            ) from error
        return state


def field_names() -> list[str]:
    """The settings there are."""
    return [field.name for field in fields(Settings)]
