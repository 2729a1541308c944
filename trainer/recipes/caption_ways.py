"""Ways to bridge the gap between words and sounds, each learnt by small decoders and asked about held-out clips.

The decoders learn from captions that people wrote (``audiocaps.csv``): for figures only, nothing of them ships.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
from tokenizers import Tokenizer

from engine.projection import nearest, project
from engine.types import FloatArray
from exporters.decoder import CaptionDecoder
from trainer.bridging import Bridge, adapter, practised, shift, sigma_of_captions, sigma_of_pairs
from trainer.cache import write_atomic
from trainer.captioner import CaptionerConfig, learn_pieces, load, say, train
from trainer.loop import Plan
from trainer.recipes.captions import Work

#: Standard deviations of the noise; the papers' two readings of about 0.015 are 0.015 itself and its root, 0.12.
SIGMAS = (0.0, 0.015, 0.03, 0.06, 0.12, 0.25, 1.0)
#: The noise of every way that has some: the best of ``SIGMAS`` on the held-out clips.
NOISE = 0.06
WAYS = ("baseline", "noise", "shift", "adapter", "shift + noise", "adapter + noise", "practice")
#: At which what is practised was projected.
TAU = 0.02
#: Clips and captions to estimate the noise from, as many as the papers take.
ESTIMATED_FROM = 50
Decoding: TypeAlias = Literal["audio", "nearest", "projection"]
DECODINGS: tuple[Decoding, ...] = ("audio", "nearest", "projection")
STEPS = 1000
PIECES = 1000
#: Longer captions are left out: they cost most of the time, and the references are short.
MOST_WORDS = 8


def small(bridge: Bridge, seed: int) -> CaptionerConfig:
    """A decoder of half a million numbers: one seed of one way takes half a minute of one core."""
    return CaptionerConfig(
        pieces=PIECES,
        width=96,
        layers=2,
        heads=4,
        prefix=4,
        hidden=192,
        max_tokens=20,
        dropout=0.0,
        bridge=bridge,
        plan=Plan(steps=STEPS, rate=4e-3, warmup=60, average=0.98, save_every=250, seed=seed),
    )


def full(bridge: Bridge, seed: int) -> CaptionerConfig:
    """A decoder of the size of WSAC's, 30 million numbers, that learns as many steps: half an hour of one core."""
    return replace(
        small(bridge, seed),
        width=768,
        layers=4,
        heads=4,
        prefix=1,
        hidden=768,
        plan=Plan(steps=STEPS, rate=5e-4, warmup=60, average=0.98, save_every=50, seed=seed),
    )


@dataclass(frozen=True)
class Ways:
    """The decoders of every way and seed, learnt when they are asked for; ``size`` is ``small`` or ``full``."""

    work: Work
    size: Literal["small", "full"] = "small"
    learnt: dict[Path, tuple[CaptionDecoder, Bridge]] = field(default_factory=dict, compare=False)

    @property
    def folder(self) -> Path:
        """Where the runs lie."""
        return self.work.out / ("ways" if self.size == "small" else "ways-full")

    @cached_property
    def captions(self) -> tuple[list[str], FloatArray]:
        """What is learnt from and remembered, and its vectors."""
        learn, _ = self.work.captions
        vectors = self.work.encode("captions", learn)
        short = [row for row, text in enumerate(learn) if len(text.split()) <= MOST_WORDS]
        return [learn[row] for row in short], vectors[short]

    @cached_property
    def practised(self) -> tuple[list[str], FloatArray]:
        """The same, and where their sounds would be projected."""
        sounds, texts = self.work.pairs
        return practised(*self.captions, sounds - texts, self.captions[1], TAU)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """One for all runs."""
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            learnt = learn_pieces(self.captions[0], ["eng"], PIECES)
            write_atomic(path, lambda draft: learnt.save(str(draft), pretty=False))
        return Tokenizer.from_file(str(path))

    def bridge(self, way: str, sigma: float) -> Bridge:
        """How ``way`` moves text vectors; ``sigma`` where it has noise."""
        sounds, texts = self.work.pairs
        noise = sigma if "noise" in way else 0.0
        if "shift" in way:
            return Bridge(noise, offset=shift(sounds, self.captions[1]))
        if "adapter" in way:
            matrix, offset = adapter(sounds, texts)
            return Bridge(noise, matrix, offset)
        return Bridge(noise)

    def decoder(self, way: str, seed: int, sigma: float = NOISE) -> tuple[CaptionDecoder, Bridge]:
        """A learnt decoder, and its bridge without noise. Raises ``TrainingError`` where it learnt something else."""
        bridge = self.bridge(way, sigma)
        folder = self.run_of(way, seed, sigma)
        if folder not in self.learnt:
            texts, vectors = self.practised if way == "practice" else self.captions
            config = (small if self.size == "small" else full)(bridge, seed)
            train(texts, vectors, config, folder, tokenizer=self.tokenizer)
            self.learnt[folder] = load(folder), Bridge(0.0, bridge.matrix, bridge.offset)
        return self.learnt[folder]

    def run_of(self, way: str, seed: int, sigma: float) -> Path:
        """Where a decoder lies."""
        return self.folder / f"{way.replace(' ', '')}-{sigma if 'noise' in way else 0:g}-{seed}"

    def said(
        self,
        learnt: tuple[CaptionDecoder, Bridge],
        decoding: Decoding,
        sounds: FloatArray,
        memory: FloatArray,
        tau: float,
        renormalise: bool = True,
    ) -> list[str]:
        """Greedy captions of ``sounds [n, dim]``; what comes from the ``memory [m, dim]`` is moved as texts were."""
        decoder, bridge = learnt
        vectors = torch.from_numpy(sounds)
        if decoding != "audio":
            found = nearest(sounds, memory) if decoding == "nearest" else project(sounds, memory, tau, renormalise)
            vectors = replace(bridge, renormalise=renormalise)(torch.from_numpy(found.points), None)
        return say(decoder, self.tokenizer, vectors, ["eng"] * len(sounds))

    def estimates(self) -> dict[str, float]:
        """What the papers' estimators say of this space."""
        sounds, texts = self.work.pairs
        told = [np.stack([self.work.reference_vectors[text] for text in clip.captions]) for clip in self.work.held]
        return {
            "between pairs": sigma_of_pairs(sounds[:ESTIMATED_FROM], texts[:ESTIMATED_FROM]),
            "between captions of one clip": sigma_of_captions(told[:ESTIMATED_FROM]),
        }
