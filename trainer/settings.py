"""What a run of fine-tuning is told: one list of settings for TOML and the command line. Never imports torch."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from engine.errors import EarshotError, QueryError

Method: TypeAlias = Literal["finetune", "concatenate", "composed"]
METHODS: tuple[str, ...] = get_args(Method)
#: Before a sound's token where there are no other words (composed-text seed, section 4.2).
PROMPT = "this sound is"
#: In the a2t module. The paper gives no rate; this is that of Pic2Word (arXiv:2302.03084), whose network it follows.
DROPOUT = 0.1
PARTS = ("audio", "text", "a2t")
PRECISIONS = ("no", "bf16", "fp16")
#: How often each language comes along (language-enhancement seed, section 4.5).
LE_RATIO = 0.1
#: The split asked by default, where there is one of that name.
HELD_OUT = "val"
#: The seed's batch (composed-text, section 4.2); a smaller data set is one batch.
BATCH = 256


class TrainingError(EarshotError):
    """A run that can't begin, or can't go on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run. The defaults are the papers', where they say; where they are silent, ours, marked so.

    ``base``, ``data``, ``unlabelled``: what to start from, what to learn from, and sounds without captions.
    ``epochs``, ``batch`` (default: 256 at most, all clips in batches of equal size), ``method``, ``prompt``:
    composed-text seed, sections 3 and 4.2. ``temperature``: language-enhancement seed, section 3.3. ``le_ratio``: its
    section 4.5, for each of ``languages``. ``patch_dropout``: its section 3.2.

    Ours: ``rate`` (the composed-text seed gives none; the other trains with 5e-5 and fine-tunes with 5e-6, on tens of
    thousands of captions, where a library's few hundred make one step an epoch), ``held_out`` (the split asked after an
    epoch; where there is no split ``train``, all others are learnt from), ``a2t_rate`` (the a2t module starts from
    nothing, the towers don't), ``warmup`` (share of the steps), ``clip`` (largest norm of the gradient), ``dropout`` in
    the a2t module, ``seed``, ``learn`` (which parts change), ``captions`` (``one`` of a language an epoch, or ``all``
    as soft targets), ``precision``, ``save_every`` (steps).
    """

    data: str
    base: str = "starter"
    unlabelled: str | None = None
    held_out: str = HELD_OUT
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
    le_ratio: float = LE_RATIO
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
        self._check("seed", self.seed >= 0, "a number from 0")
        for name in ("epochs", "save_every", "clip", "temperature"):
            self._check(name, math.isfinite(getattr(self, name)) and getattr(self, name) > 0, "a positive number")
        for name in ("rate", "a2t_rate"):  # Adam moves every weight by about this much a step
            self._check(name, 0 < getattr(self, name) <= 1, "a positive number, 1 at most")
        for name in ("warmup", "le_ratio", "dropout", "patch_dropout"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        if not self.languages:
            self._check("translator", self.translator is None, "--languages to translate into")
            self._check("le_ratio", self.le_ratio == LE_RATIO, "--languages that it is the chance of")
        if self.method == "composed" and not self.unlabelled:
            raise TrainingError("method composed without unlabelled sounds", "a folder of them", "give --unlabelled")
        if self.method != "composed" and self.unlabelled:
            raise TrainingError(
                f"unlabelled sounds, which the method {self.method} does not hear", "composed", "give --method composed"
            )

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


def check_method(method: str) -> Method:
    """The method, if it is one. Raises ``QueryError`` listing those there are."""
    for known in get_args(Method):
        if method == known:
            return known  # type: ignore[no-any-return]
    raise QueryError(f"method {method!r}", f"one of {', '.join(METHODS)}")
