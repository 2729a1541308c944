"""A captioner learns from text alone: to say again what a text vector was made of (WSAC, arXiv:2309.12242, eq. 1).

A run's folder holds ``tokenizer.json``, ``last.pt`` (to go on from), ``best.pt`` (of the lowest validation loss),
``curve.csv`` and ``validation.csv``; killed at any moment, the same call goes on with the same numbers.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F

from exporters.decoder import CaptionDecoder, DecoderConfig
from trainer.bridging import Bridge
from trainer.cache import write_atomic
from trainer.loop import Plan, write_rows
from trainer.loop import train as run
from trainer.settings import TrainingError

PAD, END, UNKNOWN = "[PAD]", "[END]", "[UNK]"
#: No target: what isn't learnt from.
_NOTHING = -100
_LONGEST_PIECE = 16
#: ``(texts, captions) -> named figures``: what a validation measures beside the loss.
Metrics = Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]


@dataclass(frozen=True)
class CaptionerConfig:
    """How large the decoder is, how the gap is bridged and how long it learns.

    The paper's decoder is ``width=768, layers=4, heads=4, prefix=1`` with a batch of 64; the defaults fit a starter.
    ``validate`` is how often, in steps, the held out texts are looked at.
    """

    pieces: int = 6000
    width: int = 256
    layers: int = 4
    heads: int = 4
    prefix: int = 4
    hidden: int = 512
    max_tokens: int = 40
    dropout: float = 0.1
    batch: int = 64
    smoothing: float = 0.0
    validate: int = 250
    bridge: Bridge = field(default_factory=Bridge)
    plan: Plan = field(default_factory=lambda: Plan(steps=2000, rate=1e-3, average=0.995, save_every=250))


def learn_pieces(texts: Sequence[str], languages: Sequence[str], pieces: int) -> Tokenizer:
    """A Unigram tokenizer (Kudo 2018) that gives texts back as they were; each language has a piece that starts it.

    Pieces 0 to 2 are padding, the end and the unknown; those of the languages, such as ``[eng]``, follow.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=pieces,
        special_tokens=[PAD, END, UNKNOWN, *(f"[{language}]" for language in sorted(set(languages)))],
        unk_token=UNKNOWN,
        max_piece_length=_LONGEST_PIECE,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


class CaptionLesson:
    """The loss of a batch of captions of about equal length, each from its own text's vector."""

    def __init__(
        self, decoder: CaptionDecoder, ids: Sequence[list[int]], vectors: NDArray[Any], config: CaptionerConfig
    ) -> None:
        self._decoder, self._ids, self._vectors, self._config = decoder, ids, vectors, config
        self._order = np.argsort([len(one) for one in ids], kind="stable")

    def __call__(self, step: int, chance: np.random.Generator) -> Mapping[str, Tensor]:
        """One random stretch of the captions in order of length. Raises ``TrainingError`` where it isn't finite.

        Of a batch's length at either end, the outermost caption is met half as often as the rest, the innermost one and
        a half times.
        """
        torch.manual_seed(int(chance.integers(2**31)))  # what dropout drops goes on as it would have
        count = min(self._config.batch, len(self._ids))
        first = int(chance.integers(-count // 2, len(self._ids) - count // 2))
        rows = self._order[np.clip(first, 0, len(self._ids) - count) :][:count]
        total = self.loss(rows, chance, self._config.smoothing)
        if not torch.isfinite(total):
            raise TrainingError(
                f"a loss of {total.item()} at step {step}", "a finite one", "lower the rate; last.pt is from before"
            )
        return {"total": total}

    def loss(self, rows: NDArray[np.int64], chance: np.random.Generator | None, smoothing: float = 0.0) -> Tensor:
        """The mean cross-entropy of the captions ``rows``, in nats a piece; without ``chance``, without noise."""
        vectors = torch.from_numpy(np.asarray(self._vectors[rows], np.float32))
        inputs, targets = shifted([self._ids[row] for row in rows])
        logits = self._decoder(self._config.bridge(vectors, chance), inputs)
        return F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=_NOTHING, label_smoothing=smoothing
        )


def shifted(ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Captions ``[start, …, end]`` -> what is read and what comes next, int64 ``[n, longest]``."""
    longest = max(map(len, ids)) - 1
    inputs = torch.zeros(len(ids), longest, dtype=torch.int64)
    targets = torch.full((len(ids), longest), _NOTHING)
    for row, one in enumerate(ids):
        inputs[row, : len(one) - 1] = torch.tensor(one[:-1])
        targets[row, : len(one) - 1] = torch.tensor(one[1:])
    return inputs, targets


def caption_ids(tokenizer: Tokenizer, texts: Sequence[str], languages: Sequence[str], longest: int) -> list[list[int]]:
    """Captions as their pieces: the language's, at most ``longest - 1`` of the text's, the end's."""
    end = tokenizer.token_to_id(END)
    starts = [tokenizer.token_to_id(f"[{language}]") for language in languages]
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [[start, *one.ids[: longest - 1], end] for start, one in zip(starts, encoded, strict=True)]


@dataclass(frozen=True)
class HeldOut:
    """Texts that are only looked at: to say them again is judged by ``metrics``, from ``vectors [n, dim]``."""

    texts: Sequence[str]
    vectors: NDArray[Any]
    languages: Sequence[str]
    metrics: Metrics | None = None
    say: int = 64


def train(
    texts: Sequence[str],
    vectors: NDArray[Any],
    config: CaptionerConfig,
    out: Path,
    *,
    languages: Sequence[str] | None = None,
    held_out: HeldOut | None = None,
    tokenizer: Tokenizer | None = None,
    stop_after: int | None = None,
) -> CaptionDecoder:
    """Teach a decoder to say ``texts`` from their ``vectors [n, dim]``, resuming what lies in ``out``.

    Args:
        texts: Captions, in any language.
        vectors: Their unit vectors in the bundle's space, any float.
        config: Sizes, bridging, steps. ``out`` refuses another one, other texts, or their vectors in another space.
        out: The run's folder.
        languages: Of each text; default: all English.
        held_out: What each validation looks at; without it the last weights are returned, else the best.
        tokenizer: A tokenizer of ``learn_pieces`` to use; default: one learnt from ``texts``.
        stop_after: End after that step, saved, as if killed.

    Raises ``TrainingError`` if the loss isn't finite, or ``out`` holds another run.
    """
    languages = languages or ["eng"] * len(texts)
    _require_same(out, texts, languages, vectors, config)
    tokenizer = _tokenizer(out, texts, languages, config, tokenizer)
    torch.manual_seed(config.plan.seed)
    decoder = CaptionDecoder(_sizes(config, vectors.shape[1], tokenizer.get_vocab_size()))
    ids = caption_ids(tokenizer, texts, languages, config.max_tokens)
    lesson = CaptionLesson(decoder, ids, vectors, config)
    if held_out is None:
        run(decoder, lesson, config.plan, out, stop_after)
        return _saved(decoder, out / "best.pt")
    judge = _Judge(decoder, tokenizer, held_out, config, out)
    last = config.plan.steps if stop_after is None else min(stop_after, config.plan.steps)
    while judge.step < last:
        look_at = min((judge.step // config.validate + 1) * config.validate, config.plan.steps)
        run(decoder, lesson, config.plan, out, min(look_at, last))
        if look_at > last:
            return decoder
        judge.look(look_at)
    return load(out)


def load(out: Path) -> CaptionDecoder:
    """The decoder that a finished run has chosen, in evaluation mode."""
    saved = torch.load(out / "best.pt", weights_only=True)
    decoder = CaptionDecoder(DecoderConfig(**saved["config"]))
    decoder.load_state_dict(saved["weights"])
    return decoder.eval()


@torch.no_grad()
def say(decoder: CaptionDecoder, tokenizer: Tokenizer, vectors: Tensor, languages: Sequence[str]) -> list[str]:
    """Greedy captions for ``[n, dim]``: always the likeliest next piece, all captions in one batch.

    For validation only: nothing is remembered between steps. ``engine.captioner`` is how captions are made.
    """
    ids = torch.tensor([[tokenizer.token_to_id(f"[{language}]")] for language in languages])
    end = tokenizer.token_to_id(END)
    done = torch.zeros(len(vectors), dtype=torch.bool)
    for _ in range(decoder.config.max_tokens):
        logits = decoder(vectors, ids)[:, -1]
        logits[:, tokenizer.token_to_id(UNKNOWN)] = -torch.inf
        best = logits.argmax(1).masked_fill(done, end)
        done |= best == end
        ids = torch.cat([ids, best[:, None]], 1)
        if done.all():
            break
    return [tokenizer.decode(row) for row in ids.tolist()]  # special pieces are left out


class _Judge:
    """Looks at held out texts, keeps the best weights and a table of what was seen."""

    def __init__(
        self, decoder: CaptionDecoder, tokenizer: Tokenizer, held: HeldOut, config: CaptionerConfig, out: Path
    ) -> None:
        self._decoder, self._tokenizer, self._held, self._config, self._out = decoder, tokenizer, held, config, out
        ids = caption_ids(tokenizer, held.texts, held.languages, config.max_tokens)
        self._lesson = CaptionLesson(decoder, ids, held.vectors, config)
        self._pieces = np.array([len(one) - 1 for one in ids])  # that are to be said: all but the start
        self._rows: list[dict[str, str]] = []
        if (out / "validation.csv").is_file():
            with (out / "validation.csv").open(newline="", encoding="utf-8") as stream:
                self._rows = list(csv.DictReader(stream))

    @property
    def step(self) -> int:
        """The last step that was looked at."""
        return int(self._rows[-1]["step"]) if self._rows else 0

    def look(self, step: int) -> None:
        """Measure, keep the weights if they are the best so far, then the figures: a kill between repeats the look."""
        figures = {"loss": self._loss(), **self._captions()}
        if not self._rows or figures["loss"] < min(float(row["loss"]) for row in self._rows):
            _saved(self._decoder, self._out / "best.pt")
        self._rows.append({"step": str(step), **{name: f"{value:.6g}" for name, value in figures.items()}})
        print(json.dumps(self._rows[-1]), flush=True)
        write_rows(self._out / "validation.csv", self._rows)

    @torch.no_grad()
    def _loss(self) -> float:
        """In nats a piece, over batches of about equal length, without noise."""
        order = np.argsort(self._pieces, kind="stable")
        parts = [order[start : start + 128] for start in range(0, len(order), 128)]
        total = sum(float(self._lesson.loss(part, None)) * int(self._pieces[part].sum()) for part in parts)
        return total / int(self._pieces.sum())

    def _captions(self) -> Mapping[str, float]:
        if self._held.metrics is None:
            return {}
        count = min(self._held.say, len(self._held.texts))
        vectors = self._config.bridge(torch.from_numpy(np.asarray(self._held.vectors[:count], np.float32)), None)
        said = say(self._decoder, self._tokenizer, vectors, self._held.languages[:count])
        return self._held.metrics(self._held.texts[:count], said)


def _sizes(config: CaptionerConfig, dim: int, pieces: int) -> DecoderConfig:
    """What the tokenizer has may be less than was asked for."""
    return DecoderConfig(
        dim=dim,
        pieces=pieces,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        prefix=config.prefix,
        hidden=config.hidden,
        max_tokens=config.max_tokens,
        dropout=config.dropout,
    )


def _saved(decoder: CaptionDecoder, path: Path) -> CaptionDecoder:
    state = {"config": asdict(decoder.config), "weights": decoder.state_dict()}
    write_atomic(path, lambda draft: torch.save(state, draft))
    return decoder


def _tokenizer(
    out: Path, texts: Sequence[str], languages: Sequence[str], config: CaptionerConfig, given: Tokenizer | None
) -> Tokenizer:
    """The run's tokenizer: as it was when the run began."""
    path = out / "tokenizer.json"
    if not path.is_file():
        learnt = given or learn_pieces(texts, languages, config.pieces)
        write_atomic(path, lambda draft: learnt.save(str(draft), pretty=False))
    return Tokenizer.from_file(str(path))


def _require_same(
    out: Path, texts: Sequence[str], languages: Sequence[str], vectors: NDArray[Any], config: CaptionerConfig
) -> None:
    """Keep what the run was begun with. Raises ``TrainingError`` where it was something else."""
    path = out / "run.json"
    ours = {"sha256": _told(config, texts, languages), "vectors": _digest(vectors, config.bridge)}
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        told = json.dumps({**ours, "texts": len(texts), "config": repr(config)}, indent=2)
        write_atomic(path, lambda draft: draft.write_text(told, encoding="utf-8"))
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    if all((ours | known)[key] == ours[key] for key in ours):
        return
    began = re.search(r"Plan\(steps=(\d+)", str(known.get("config")))
    steps = int(began[1]) if began else 0
    as_long = replace(config, plan=replace(config.plan, steps=steps))
    if steps != config.plan.steps and _told(as_long, texts, languages) == known["sha256"]:
        raise TrainingError(
            f"a run of {steps} steps in {out}, and {config.plan.steps} asked for",
            f"{steps} again: how fast each step learns depends on the last one",
            "choose another folder for more steps, or clear it",
        )
    raise TrainingError(
        f"another run in {out}", "the same texts, vectors and settings", "choose another folder, or clear it"
    )


def _told(config: CaptionerConfig, texts: Sequence[str], languages: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(config).encode())
    for pair in zip(texts, languages, strict=True):
        digest.update("\0".join(pair).encode())
    return digest.hexdigest()


def _digest(vectors: NDArray[Any], bridge: Bridge) -> str:
    """Of the numbers that ``repr`` leaves out of a large array."""
    digest = hashlib.sha256()
    for numbers in (vectors, bridge.matrix, bridge.offset):
        if numbers is not None:
            digest.update(f"{numbers.dtype} {numbers.shape}".encode())
            digest.update(np.ascontiguousarray(numbers))
    return digest.hexdigest()
