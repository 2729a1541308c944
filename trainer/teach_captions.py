"""`earshot train captioner`: captions in, a bundle that puts sounds into words out.

Beside the new bundle lies the run, ``OUT.run``: the texts' vectors, and what ``trainer.captioner`` keeps there. The
same call goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from engine.bundle import Bundle
from engine.encoders import OnnxEncoders, normalise
from engine.errors import QueryError
from engine.types import FloatArray
from exporters.amend import amend
from exporters.asking import hear
from exporters.captioner import CaptionSettings, export_captioner
from exporters.export import replacing
from trainer.bridging import ASKED, Bridge, adapter, practised, shift, sigma_of_pairs
from trainer.cache import save_array, write_atomic
from trainer.caption_metrics import text_figures
from trainer.captioner import CaptionerConfig, HeldOut, train
from trainer.loop import Plan
from trainer.manifest import read_data

#: What bridges the gap: noise alone; or first, learnt from pairs, a shift, a linear adapter, or practice on where
#: sounds of captions would be projected.
Bridging = Literal["noise", "shift", "adapter", "practice"]
#: The noise that serves best where a sound is projected upon a memory, as a bundle does unless told otherwise; for a
#: sound's own vector 0.06 does. What is estimated from pairs served worst (docs/experiments.md).
NOISE = 0.015
#: Pairs that noise is estimated from (arXiv:2309.12242 takes 50), and texts that are only looked at.
PAIRS, HELD_OUT = 50, 300
_AT_ONCE = 4096
#: Captions at most that others are projected upon in practice.
_UPON = 20_000


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learnt, and how: ``pairs`` are captioned sounds (``trainer.manifest``); ``paper``: the paper's sizes."""

    texts: Sequence[str]
    languages: Sequence[str]
    steps: int
    noise: float | None = None
    bridging: Bridging = "noise"
    pairs: Path | None = None
    paper: bool = False


def teach(lesson: Lesson, bundle: Bundle, out: Path) -> Mapping[str, Any]:
    """Write to ``out`` the bundle with a captioner that has learnt; returns the manifest's section on it.

    Raises ``QueryError`` if there is too little to learn from or pairs are missing, ``TrainingError``.
    """
    if len(lesson.texts) < 2:
        raise QueryError(f"{len(lesson.texts)} captions", "some thousands to learn from", "name files of captions")
    if lesson.bridging != "noise" and lesson.pairs is None:
        raise QueryError(f"--bridge {lesson.bridging} without pairs", "captioned sounds", "name them with --pairs")
    torch.set_num_threads(1)  # matrices this small gain nothing by more, and the machine stays of use
    run = out.with_name(out.name + ".run")
    encoders = OnnxEncoders(bundle, "cpu")
    vectors = _vectors(encoders, lesson.texts, run)
    bridge, paired = _bridge(encoders, lesson)
    settings = CaptionSettings(_spoken(lesson.languages), sigma=bridge.sigma)
    held = np.random.default_rng(0).permutation(len(lesson.texts))[: min(HELD_OUT, len(lesson.texts) // 10)]
    rows = np.setdiff1d(np.arange(len(lesson.texts)), held)
    texts, taught, languages = [lesson.texts[n] for n in rows], vectors[rows], [lesson.languages[n] for n in rows]
    if lesson.bridging == "practice" and paired is not None:
        upon = taught[np.random.default_rng(0).permutation(len(taught))[:_UPON]]
        texts, taught = practised(texts, taught, paired.gaps, upon, settings.tau)
        languages = languages * (1 + ASKED)
    config, judged = _config(lesson, bridge), _held_out(lesson, vectors, held.tolist())
    decoder = train(texts, taught, config, run, languages=languages, held_out=judged)
    if not out.exists():
        with replacing(out) as folder:  # killed while it is copied, it isn't there
            shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
    english = [text for text, language in zip(texts, languages, strict=True) if language == "eng"]
    space_id, common = bundle.manifest.space_id, paired.common if paired else None
    pieces = run / "tokenizer.json"
    section = export_captioner(decoder, pieces, space_id, settings, out, english=english, common=common)
    amend(out, {"name": out.name, "captions": {"facts": _facts(lesson, bundle, section)}})
    return section


def _facts(lesson: Lesson, bundle: Bundle, section: Mapping[str, Any]) -> dict[str, str]:
    """What the card says of this decoder, in place of what it said of another; the bundle's memory is the same."""
    before = bundle.manifest.extra.get("captions") or {}
    kept = {name: told for name, told in before.get("facts", {}).items() if name == "memory"}
    return kept | {
        "decoder": f"{section['parameters']:,} parameters, {lesson.steps:,} steps, noise of {section['sigma']:.3g}",
        "learnt from": f"{len(lesson.texts):,} captions in {', '.join(_spoken(lesson.languages))}",
        "judged": "not yet: `earshot eval captions` does",
    }


def _held_out(lesson: Lesson, vectors: FloatArray, rows: list[int]) -> HeldOut | None:
    if not rows:
        return None
    texts, languages = [lesson.texts[row] for row in rows], [lesson.languages[row] for row in rows]
    return HeldOut(texts, vectors[rows], languages, _figures)


def _figures(texts: Sequence[str], said: Sequence[str]) -> Mapping[str, float]:
    figures = text_figures(said, [[text] for text in texts])
    return {figure.name: figure.value for figure in figures if figure.name in ("BLEU-4", "ROUGE-L", "CIDEr-D")}


def _config(lesson: Lesson, bridge: Bridge) -> CaptionerConfig:
    config = CaptionerConfig(bridge=bridge, plan=Plan(lesson.steps, rate=1e-3, average=0.995, save_every=100))
    if lesson.paper:  # arXiv:2309.12242, section 4.2
        return replace(config, width=768, layers=4, heads=4, prefix=1, hidden=768)
    return config


def _spoken(languages: Sequence[str]) -> tuple[str, ...]:
    """Most frequent first: that is what is spoken where nobody asks."""
    return tuple(sorted(set(languages), key=lambda language: (-list(languages).count(language), language)))


def _vectors(encoders: OnnxEncoders, texts: Sequence[str], run: Path) -> FloatArray:
    """The texts' unit vectors ``[n, dim]``, kept in float16 beside the run, by what they are of and in which space."""
    key = hashlib.sha256("\0".join((encoders.space.space_id, *texts)).encode()).hexdigest()
    path = run / f"vectors-{key[:12]}.npy"
    if path.is_file():
        return np.asarray(np.load(path), np.float32)
    parts = [encoders.text.encode_text(texts[i : i + _AT_ONCE]) for i in range(0, len(texts), _AT_ONCE)]
    found = np.concatenate(parts)
    write_atomic(path, lambda draft: save_array(draft, found.astype(np.float16)))
    return np.asarray(found.astype(np.float16), np.float32)


@dataclass(frozen=True, slots=True)
class _Paired:
    """Sounds ``[n, dim]`` and their words ``[n, dim]``."""

    sounds: FloatArray
    words: FloatArray

    @property
    def gaps(self) -> FloatArray:
        """What lies between each sound and its words ``[n, dim]``."""
        return self.sounds - self.words

    @property
    def common(self) -> FloatArray | None:
        """The mean of the sounds ``[dim]``, if these are enough for one."""
        return np.asarray(self.sounds.mean(axis=0)) if len(self.sounds) >= PAIRS else None


def _bridge(encoders: OnnxEncoders, lesson: Lesson) -> tuple[Bridge, _Paired | None]:
    """Noise, and from the pairs, if there are any, shift or adapter; what noise they would say is printed."""
    noise = NOISE if lesson.noise is None else lesson.noise
    if lesson.pairs is None:
        return Bridge(noise), None
    paired = _paired(encoders, lesson, lesson.pairs)
    estimate = sigma_of_pairs(paired.sounds[:PAIRS], paired.words[:PAIRS])
    print(f"noise {noise:.3g}; estimated from the pairs: {estimate:.3g}", flush=True)
    if lesson.bridging == "shift":
        return Bridge(noise, offset=shift(paired.sounds, paired.words)), paired
    if lesson.bridging == "adapter":
        matrix, offset = adapter(paired.sounds, paired.words)
        return Bridge(noise, matrix, offset), paired
    return Bridge(noise), paired


def _paired(encoders: OnnxEncoders, lesson: Lesson, pairs: Path) -> _Paired:
    """Captioned sounds, no more of them than are needed, in random order. Raises ``QueryError`` for fewer than two."""
    clips = [clip for clip in read_data(pairs).examples if clip.captions and not clip.member]
    if len(clips) < 2:
        raise QueryError(f"{len(clips)} captioned sounds in {pairs}", f"{PAIRS}, better more", "name others")
    clips = [clips[number] for number in np.random.default_rng(0).permutation(len(clips))]  # lists come sorted
    clips = clips[:PAIRS] if lesson.bridging == "noise" else clips
    sounds = normalise(np.stack([vectors.mean(axis=0) for vectors in hear(encoders, [clip.audio for clip in clips])]))
    return _Paired(sounds, encoders.text.encode_text([clip.captions[0].text for clip in clips]))
