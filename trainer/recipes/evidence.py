"""What the experiments on real sound share: clips held out, mixtures of waveforms as the trunk hears them, verdicts.

The trunk stays as it is, so windows and mixtures are heard once and kept; what is above the trunk and the text tower
then learn from features, in seconds. ``trainer.recipes.composed`` and ``trainer.recipes.enhanced`` are the experiments.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.types import FloatArray
from exporters.own import source_of
from exporters.starter import Checkpoint
from exporters.towers import AudioTower, TextTower
from trainer.cache import save_array, save_arrays, write_atomic
from trainer.data import decode
from trainer.hearing import clean_windows
from trainer.loop import Plan, train
from trainer.metrics import Floats, average_precision_at
from trainer.recipes.designs import Designs
from trainer.tower_sets import Towers

Indices = NDArray[np.int64]
#: Windows of a clip that are mixed with others.
MIXED_WINDOWS = 3
#: What hyperparameters are chosen on: clips by source, from those that the test doesn't hold.
TUNING_SHARE = 0.25
LARGEST_TUNING_SOURCE = 60
HEARD_AT_ONCE = 16
LENGTHS = 3  # groups of texts of about equal length
TEMPERATURE = 0.07  # the language-enhancement paper's; the composed-text paper gives none
BATCH = 64
ROUNDS = 4000
#: Half of a 95 % interval is 1.96 standard errors; an effect is seen four times out of five at 2.8.
SEEN = 2.8
Losses = Callable[["FeatureTowers", np.random.Generator], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Mixed:
    """Pairs of windows (numbers in ``Ground.clean``) and what the trunk makes of the mean of their waveforms."""

    first: Indices
    second: Indices
    features: NDArray[np.float16]


class Ground(Designs):
    """The starter's data, cut into a test part, clips to choose settings by, and clips to learn from."""

    @cached_property
    def told(self) -> NDArray[np.bool_]:
        """Which of ``rows`` have a text."""
        return np.array([bool(row.text) for row in self.rows])

    @cached_property
    def test(self) -> Indices:
        """Clips of the test part: held out by source, with a text."""
        return np.flatnonzero(self.chosen_by & self.told)

    @cached_property
    def tuning(self) -> Indices:
        """Clips that settings are chosen on, by source; neither learnt from nor tested on."""
        sources = [row.source for row in self.rows]
        small = {source for source in set(sources) if sources.count(source) <= LARGEST_TUNING_SOURCE}
        chosen = {source for source in small if _chance(source) < TUNING_SHARE}
        return np.flatnonzero(~self.chosen_by & self.told & np.array([source in chosen for source in sources]))

    @cached_property
    def pool(self) -> Indices:
        """Clips to learn from, with a text (which may be hidden)."""
        return np.setdiff1d(np.flatnonzero(~self.chosen_by & self.told), self.tuning)

    @cached_property
    def exam(self) -> Exam:
        """The test part."""
        return exam_of(self, self.test)

    @cached_property
    def tuning_exam(self) -> Exam:
        """What settings are chosen on."""
        return exam_of(self, self.tuning)

    @cached_property
    def windows(self) -> list[tuple[int, int]]:
        """(clip, first frame) of each of ``clean``."""
        return clean_windows(self.mels, self.teacher[0])

    def views_of(self, clips: Sequence[int] | Indices, most: int | None = None) -> list[Indices]:
        """The windows (numbers in ``clean``) of each clip, evenly thinned to ``most``."""
        starts = np.searchsorted(self.clean.first, np.asarray(clips), side="left")
        ends = np.searchsorted(self.clean.first, np.asarray(clips), side="right")
        found = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        if most is None:
            return found
        return [np.unique(views[np.linspace(0, len(views) - 1, most).round().astype(int)]) for views in found]

    @cached_property
    def mixable(self) -> tuple[Indices, NDArray[np.float16]]:
        """Views whose samples are kept, ascending, and these ``[views, window_samples]``."""
        views = np.concatenate(self.views_of(np.arange(len(self.rows)), MIXED_WINDOWS))
        path = self.out / "evidence" / "samples.npy"
        if not path.is_file():
            write_atomic(path, lambda draft: save_array(draft, self._samples(views)))
        return views, np.load(path, mmap_mode="r")

    def _samples(self, views: Indices) -> NDArray[np.float16]:
        config = self.teacher[0]
        rate, size, hop = config.front.sample_rate_hz, config.window_samples, config.front.hop_samples
        found = np.zeros((len(views), size), np.float16)
        clip, samples = -1, np.zeros(0, np.float32)
        for number, view in enumerate(views):
            wanted, frame = self.windows[view]
            if wanted != clip:
                clip, samples = wanted, decode(self.rows[wanted], rate, size)
            start = min(frame * hop, len(samples) - size)
            found[number] = samples[start : start + size]
        return found

    def mixed(self, key: str, one: Indices, other: Indices, chance: np.random.Generator) -> Mixed:
        """Two clips a pair, of each a window by chance; the mixtures are kept under ``key``."""
        first, second = (
            np.array([views[chance.integers(len(views))] for views in self.views_of(clips, MIXED_WINDOWS)])
            for clips in (one, other)
        )
        return Mixed(first, second, self.mixtures(key, first, second))

    def mixtures(self, key: str, first: Indices, second: Indices) -> NDArray[np.float16]:
        """Features ``[n, patches, channels]`` of the mean of two windows' waveforms (composed text, eq. 11).

        ``first`` and ``second`` are views among ``mixable``; kept under ``key``.
        """
        path = self.out / "evidence" / f"mixed-{key}.npy"
        if not (path.is_file() and len(np.load(path, mmap_mode="r")) == len(first)):
            write_atomic(path, lambda draft: save_array(draft, self._heard(first, second)))
        return np.asarray(np.load(path))

    @torch.inference_mode()
    def _heard(self, first: Indices, second: Indices) -> NDArray[np.float16]:
        views, samples = self.mixable
        one, other = np.searchsorted(views, first), np.searchsorted(views, second)
        tower: AudioTower = self.new_audio()
        tower.trunk.to(memory_format=torch.channels_last)  # twice as fast
        found = []
        for start in range(0, len(first), HEARD_AT_ONCE):
            rows = slice(start, start + HEARD_AT_ONCE)
            mixed = torch.from_numpy((samples[one[rows]].astype(np.float32) + samples[other[rows]]) / 2)
            mels = tower.levelled(tower.front(mixed - mixed.mean(1, keepdim=True)))
            found.append(tower.hear(mels).numpy().astype(np.float16))
        return np.concatenate(found)


def _chance(source: str) -> float:
    """A number in 0..1 for a source, not the one that the test part goes by."""
    return int.from_bytes(hashlib.sha256(f"tuning {source}".encode()).digest()[:4], "big") / 2**32


class FewPieces(nn.Module):
    """The rows of an embedding that some texts need, under their own numbers: the others say nothing about these."""

    def __init__(self, pieces: nn.Embedding, used: Indices) -> None:
        super().__init__()
        self.register_buffer("place", torch.full((pieces.num_embeddings,), -1))
        self.place[used] = torch.arange(len(used))
        self.rows = nn.Embedding.from_pretrained(pieces.weight[used].detach().clone(), freeze=False)

    def forward(self, ids: Tensor) -> Tensor:
        """int64 ``[batch, tokens]`` -> ``[batch, tokens, dim]``."""
        return self.rows(self.place[ids])


class FeatureTowers(Towers):
    """Towers whose sounds are the trunk's features ``[batch, patches, channels]``, and whose texts are known before.

    All but the trunk learns; with ``locked`` words also the text tower stays as it is (arXiv:2111.07991), and what it
    says of a text is kept.
    """

    def __init__(
        self, audio: AudioTower, text: TextTower, tokenizer: Path, texts: Sequence[str], *, locked: bool = False
    ) -> None:
        audio, text = copy.deepcopy(audio), copy.deepcopy(text)
        super().__init__(source_of(Checkpoint(audio, text, tokenizer), "evidence"), composes=True)
        used = np.unique(np.concatenate([one.ids for one in self._tokenizer.encode_batch(list(texts))]))
        text.pieces = FewPieces(text.pieces, used)
        self.requires_grad_(True)
        audio.trunk.requires_grad_(False)
        text.requires_grad_(not locked)
        self._said: dict[str, Tensor] | None = {} if locked else None

    def encode_audio(self, samples: Tensor) -> Tensor:
        """Features ``[batch, patches, channels]`` -> unit ``[batch, dim]``."""
        return self.audio.embed(samples)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """n texts -> unit ``[n, dim]``; short ones together, so that they aren't padded to the longest."""
        if self._said is None:
            return self._by_length(
                texts, lambda rows: super(FeatureTowers, self).encode_texts([texts[i] for i in rows])
            )
        fresh = [text for text in dict.fromkeys(texts) if text not in self._said]
        if fresh:
            with torch.no_grad():
                self._said |= zip(fresh, super().encode_texts(fresh), strict=True)
        return torch.stack([self._said[text] for text in texts])

    def compose(self, texts: Sequence[str], sounds: Tensor) -> Tensor:
        """n texts, each followed by its sound ``[n, dim]`` as a token -> unit ``[n, dim]``."""
        compose = super().compose
        return self._by_length(texts, lambda rows: compose([texts[i] for i in rows], sounds[rows]))

    def _by_length(self, texts: Sequence[str], encode: Callable[[list[int]], Tensor]) -> Tensor:
        order = np.argsort([len(text) for text in texts], kind="stable")
        groups = 1 if len(set(texts)) == 1 else LENGTHS
        parts = [encode(rows.tolist()) for rows in np.array_split(order, groups) if len(rows)]
        return torch.cat(parts)[np.argsort(order)]

    @torch.inference_mode()
    def heard(self, features: NDArray[np.float16]) -> FloatArray:
        """Features ``[n, patches, channels]`` -> unit ``[n, dim]``."""
        parts = [self.encode_audio(_floats(features[i : i + 1024])) for i in range(0, len(features), 1024)]
        return np.asarray(torch.cat(parts).numpy())

    @torch.inference_mode()
    def read(self, texts: Sequence[str]) -> FloatArray:
        """n texts -> unit ``[n, dim]``."""
        parts = [self.encode_texts(texts[start : start + 256]) for start in range(0, len(texts), 256)]
        return np.asarray(torch.cat(parts).numpy())

    def learn(self, losses: Losses, plan: Plan, folder: Path | None = None) -> FeatureTowers:
        """Train in place, without a word; to go on after a kill, in ``folder``."""
        with tempfile.TemporaryDirectory() as passing, redirect_stdout(StringIO()):
            train(self, lambda _, chance: losses(self, chance), plan, folder or Path(passing))
        return self


def _floats(features: NDArray[np.float16]) -> Tensor:
    return torch.from_numpy(features.astype(np.float32))


@dataclass(frozen=True)
class Exam:
    """Sounds and what is said about them.

    ``features`` of all windows, ``owner [windows]`` the sound of each, ascending; ``texts`` distinct, and ``said
    [sounds]`` the one that a sound has. A text finds any sound that has it; a sound is its best window.
    """

    features: NDArray[np.float16]
    owner: Indices
    texts: Sequence[str]
    said: Indices

    def marks(self, towers: FeatureTowers) -> dict[str, Floats]:
        """Per query the rank of the first right answer and AP@10: ``t2a [texts]``, ``a2t [sounds]`` and ``… ap``."""
        scores = self._scores(towers, self.texts)
        right = np.arange(len(self.texts))[:, None] == self.said[None]
        return _marks("t2a", scores, right) | _marks("a2t", scores.T, right.T)

    def found_by(self, towers: FeatureTowers, asked: Indices, told: Sequence[str]) -> dict[str, Floats]:
        """``t2a`` and ``t2a ap`` of some of the texts (their numbers), ``told`` in other words."""
        return _marks("t2a", self._scores(towers, told), asked[:, None] == self.said[None])

    def _scores(self, towers: FeatureTowers, texts: Sequence[str]) -> FloatArray:
        """``[texts, sounds]``."""
        scores = towers.read(texts) @ towers.heard(self.features).T
        starts = np.searchsorted(self.owner, np.unique(self.owner))
        return np.asarray(np.maximum.reduceat(scores, starts, axis=1), np.float32)


def _marks(name: str, scores: FloatArray, right: NDArray[np.bool_]) -> dict[str, Floats]:
    ranks = first_ranks_unsorted(scores, right)
    # With one right answer each, the ranks say it all; sorting is what takes long.
    single = (right.sum(1) == 1).all()
    return {name: ranks, f"{name} ap": (ranks <= 10) / ranks if single else average_precision_at(scores, right, 10)}


def first_ranks_unsorted(scores: FloatArray, right: NDArray[np.bool_]) -> Floats:
    """``metrics.first_ranks`` where every query has a right answer."""
    best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(1 + ((scores >= best) & ~right).sum(axis=1), np.float64)


def exam_of(ground: Ground, clips: Indices) -> Exam:
    """Clips and their own texts."""
    told = [ground.rows[clip].text for clip in clips]
    texts = sorted(set(told))
    views = ground.views_of(clips)
    owner = np.repeat(np.arange(len(clips)), [len(one) for one in views])
    return Exam(ground.clean.features[np.concatenate(views)], owner, texts, np.array([texts.index(t) for t in told]))


def kept(path: Path, work: Callable[[], Mapping[str, Floats]]) -> dict[str, Floats]:
    """What ``work`` gives, from ``path`` if it was done before."""
    if not path.is_file():
        found = work()
        write_atomic(path, lambda draft: save_arrays(draft, **found))
    with np.load(path) as arrays:
        return dict(arrays)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds and queries with its 95 % interval, and the smallest effect that would be seen."""

    value: float
    low: float
    high: float
    seen: float


def estimate(values: Floats) -> Estimate:
    """``values [seeds, queries]``, of one model or the difference of two: both are drawn again (two-level bootstrap).

    ``seen`` is the true effect that leaves zero outside the interval four times out of five.
    """
    chance = np.random.default_rng(0)
    seeds, queries = values.shape
    rounds = np.empty(ROUNDS)
    for number in range(ROUNDS):
        of_seed = values[chance.integers(seeds, size=seeds)].mean(0)
        rounds[number] = of_seed[chance.integers(queries, size=queries)].mean()
    low, high = np.percentile(rounds, [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), SEEN * float(rounds.std()))


def difference(one: Floats, other: Floats) -> str:
    """A paired difference of ``[seeds, queries]``, its interval, its share of ``other``, and what would be seen."""
    found = estimate(one - other)
    share = found.value / max(float(other.mean()), 1e-9)
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f}), {share:+.0%}, seen from {found.seen:.3f}"


def publish(lines: Sequence[str], folder: Path) -> None:
    """Print tables and write them to ``folder/tables.md``."""
    text = "\n".join(lines) + "\n"
    print(text, end="", flush=True)
    write_atomic(folder / "tables.md", lambda draft: draft.write_text(text, encoding="utf-8"))
