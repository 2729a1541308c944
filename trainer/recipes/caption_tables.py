"""The tables of captions in docs/experiments.md: what every way of learning and of decoding is worth on held-out clips.

Figures are means over seeds; intervals come from drawing clips again, each with its mean over seeds.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from engine.projection import laid_out, project, project_nearest
from engine.types import FloatArray
from trainer.cache import write_atomic
from trainer.caption_metrics import bleu, bleu_counts, cider_d, rouge_l, sound_figures, words
from trainer.metrics import Floats, bootstrap
from trainer.recipes.caption_ways import DECODINGS, NOISE, SIGMAS, TAU, WAYS, Decoding, Ways
from trainer.recipes.captions import centres

TAUS = (0.005, 0.01, 0.02, 0.05, 0.1)
SIZES = (100, 1000, 10_000, 100_000)
NEAREST = (1, 4, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class Score:
    """What captions of the held-out clips are worth; ``cider [clips]`` for differences between two."""

    bleu_1: float
    rouge_l: float
    cider: Floats
    similarity: float
    own_at_10: float
    vocabulary: int

    def cells(self) -> list[str]:
        """As a row of a table, CIDEr-D with its interval."""
        low, high = bootstrap(self.cider)
        middle = f"{self.cider.mean():.3f} ({low:.3f} to {high:.3f})"
        return [
            f"{self.bleu_1:.3f}",
            f"{self.rouge_l:.3f}",
            middle,
            f"{self.similarity:.3f}",
            f"{self.own_at_10:.3f}",
            str(self.vocabulary),
        ]


HEADS = ("BLEU-1", "ROUGE-L", "CIDEr-D", "caption-audio", "own clip R@10", "words")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


@dataclass(frozen=True)
class Tables:
    """Captions are kept as they are said; figures are made of them anew."""

    ways: Ways

    @cached_property
    def heard(self) -> list[FloatArray]:
        """The held-out clips' windows ``[windows, dim]``."""
        return self.ways.work.heard("held", self.ways.work.held)

    @cached_property
    def sounds(self) -> FloatArray:
        """The held-out clips ``[clips, dim]``."""
        return centres(self.heard)

    @cached_property
    def memory(self) -> FloatArray:
        """What is remembered in the experiments ``[m, dim]``: the captions that were learnt from, in random order."""
        vectors = self.ways.captions[1]
        return np.asarray(vectors[np.random.default_rng(0).permutation(len(vectors))])

    def score(
        self,
        way: str,
        decoding: Decoding,
        *,
        sigma: float = NOISE,
        seeds: Sequence[int] | None = None,
        tau: float = TAU,
        memory: FloatArray | None = None,
        renormalise: bool = True,
    ) -> Score:
        """The mean over seeds, all of them where none are named."""
        held = memory if memory is not None else self.memory
        told = []
        for seed in seeds or self.ways.work.seeds:
            learnt, run = self.ways.decoder(way, seed, sigma), self.ways.run_of(way, seed, sigma)
            asked = hashlib.sha256((run / "best.pt").read_bytes() + self.sounds.tobytes() + held.tobytes())
            name = f"{decoding}-{tau:g}-{len(held)}-{renormalise}-{asked.hexdigest()[:12]}.json"
            path = run / "said" / name
            if not path.is_file():
                said = self.ways.said(learnt, decoding, self.sounds, held, tau, renormalise)
                write_atomic(path, lambda draft, said=said: draft.write_text(json.dumps(said), encoding="utf-8"))  # type: ignore[misc]
            told.append(json.loads(path.read_text(encoding="utf-8")))
        return self.judged(told)

    def judged(self, told: Sequence[Sequence[str]]) -> Score:
        """Captions of the held-out clips, once for each seed."""
        known = [[words(text) for text in clip.captions] for clip in self.ways.work.held]
        split = [[words(text) for text in captions] for captions in told]
        said = list(dict.fromkeys(text or "." for captions in told for text in captions))
        vectors = dict(zip(said, self.ways.work.encoded(said), strict=True))
        near = [sound_figures(np.stack([vectors[text or "."] for text in captions]), self.heard) for captions in told]
        return Score(
            bleu_1=float(np.mean([bleu(bleu_counts(one, known), 1) for one in split])),
            rouge_l=float(np.mean([rouge_l(one, known).mean() for one in split])),
            cider=np.mean([cider_d(one, known) for one in split], axis=0),
            similarity=float(np.mean([figures[0].value for figures in near])),
            own_at_10=float(np.mean([figures[2].value for figures in near])),
            vocabulary=round(np.mean([len({word for one in captions for word in one}) for captions in split])),
        )

    def of_ways(self) -> str:
        """Ways of learning by ways of decoding, and by how much each is better than none of either."""
        none = self.score("baseline", "audio").cider
        rows = []
        for way in WAYS:
            for decoding in DECODINGS:
                score = self.score(way, decoding)
                low, high = bootstrap(score.cider - none)
                gain = f"{(score.cider - none).mean():+.3f} ({low:+.3f} to {high:+.3f})"
                rows.append([way, decoding, *score.cells(), gain])
        return table(("learnt", "decoded from", *HEADS, "CIDEr-D gained"), rows)

    def of_full_size(self) -> str:
        """A decoder of the papers' size against a small one, a seed of each; both learnt nothing of the gap."""
        full, [seed, *_] = Tables(replace(self.ways, size="full")), self.ways.work.seeds
        rows = []
        for decoding in DECODINGS:
            ours, theirs = (one.score("baseline", decoding, seeds=[seed]) for one in (self, full))
            low, high = bootstrap(theirs.cider - ours.cider)
            more = f"{(theirs.cider - ours.cider).mean():+.3f} ({low:+.3f} to {high:+.3f})"
            rows += [["small", decoding, *ours.cells(), "-"], ["full", decoding, *theirs.cells(), more]]
        return table(("decoder", "decoded from", *HEADS, "CIDEr-D gained"), rows)

    def of_sigmas(self) -> str:
        """How much noise, one seed."""
        rows = []
        for sigma in SIGMAS:
            found = [self.score("noise" if sigma else "baseline", d, sigma=sigma, seeds=(1,)) for d in DECODINGS]
            rows.append([f"{sigma:g}", *(_interval(score.cider) for score in found)])
        return table(("sigma", *DECODINGS), rows)

    def of_taus(self) -> str:
        """How sharp the projection is, and whether it is brought back to length one."""
        rows = []
        for tau in TAUS:
            for way in ("baseline", "noise"):
                for renormalise in (True, False):
                    score = self.score(way, "projection", tau=tau, renormalise=renormalise)
                    rows.append([f"{tau:g}", way, "yes" if renormalise else "no", *score.cells()])
        return table(("tau", "learnt", "renormalised", *HEADS), rows)

    def of_sizes(self) -> str:
        """How much is remembered, in score and in milliseconds a clip."""
        rows = []
        for size in SIZES:
            memory = self.larger_memory[:size]
            laid = laid_out(memory)
            started = time.perf_counter()
            for sound in self.sounds[:100]:
                project(sound[None], laid, TAU)
            spent_ms = (time.perf_counter() - started) * 10
            found = [self.score("noise", decoding, memory=memory) for decoding in DECODINGS[1:]]
            rows.append([f"{len(memory):,}", *(_interval(score.cider) for score in found), f"{spent_ms:.2f}"])
        return table(("remembered", "nearest", "projection", "ms a clip, projection"), rows)

    @cached_property
    def larger_memory(self) -> FloatArray:
        """The same, and after it what else was written of sounds, ``[m, dim]``: more than 100,000."""
        return np.concatenate([self.memory, self.ways.work.more_captions])

    def of_nearest(self) -> str:
        """How far the projection on the K nearest is from that on all."""
        exact = project(self.sounds, self.memory, TAU).points
        cosines = self.sounds @ self.memory.T
        rows = []
        for k in NEAREST:
            found = []
            for sound, alike in enumerate(cosines):
                near = np.argpartition(-alike, k)[:k]
                one = project_nearest(alike[near], self.memory[near], len(alike), TAU)
                found.append((np.linalg.norm(one.point - exact[sound]), one.error))
            apart, bound = np.array(found).T
            rows.append([str(k), f"{apart.mean():.4f}", f"{apart.max():.4f}", f"{bound.mean():.4f}"])
        return table(("K", "mean distance", "largest", "mean bound"), rows)

    def own(self) -> str:
        """What nearest captions themselves are worth, said word for word."""
        learn = self.ways.captions[0]
        order = np.random.default_rng(0).permutation(len(learn))
        best = (self.sounds @ self.memory.T).argmax(axis=1)
        return table(
            ("said", *HEADS), [["the nearest caption itself", *self.judged([[learn[order[n]] for n in best]]).cells()]]
        )


def _interval(values: Floats) -> str:
    low, high = bootstrap(values)
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"
