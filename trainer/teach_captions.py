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
from engine.errors import AudioError, QueryError
from engine.types import FloatArray
from exporters.amend import amend
from exporters.asking import hear
from exporters.captioner import CaptionSettings, export_captioner
from exporters.export import replacing
from trainer.bridging import ASKED, Bridge, adapter, as_asked, practised, shift, sigma_of_pairs
from trainer.cache import save_array, save_arrays, write_atomic
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
    bridge, paired = _bridge(encoders, lesson, run)  # first: it is soon told that they are of no use
    vectors = _vectors(encoders, "vectors", lesson.texts, run)
    settings = CaptionSettings(_spoken(lesson.languages), sigma=bridge.sigma)
    held = np.random.default_rng(0).permutation(len(lesson.texts))[: min(HELD_OUT, len(lesson.texts) // 10)]
    rows = np.setdiff1d(np.arange(len(lesson.texts)), held)
    texts, taught, languages = [lesson.texts[n] for n in rows], vectors[rows], [lesson.languages[n] for n in rows]
    looked_at = vectors[held]
    if lesson.bridging == "practice" and paired is not None:
        texts, taught, looked_at = _practised(run, texts, taught, looked_at, paired, settings.tau)
        languages = languages * (1 + ASKED)
    judged = _held_out(lesson, looked_at, held.tolist())
    decoder = train(texts, taught, _config(lesson, bridge), run, languages=languages, held_out=judged)
    if not out.exists():
        with replacing(out) as folder:  # killed while it is copied, it isn't there
            shutil.copytree(bundle.folder, folder, dirs_exist_ok=True)
    english = [text for text, language in zip(texts, languages, strict=True) if language == "eng"]
    space_id, common = bundle.manifest.space_id, paired.common if paired else None
    pieces = run / "tokenizer.json"
    section = export_captioner(decoder, pieces, space_id, settings, out, english=english, common=common)
    amend(out, {"name": out.name, "captions": {"facts": _facts(lesson, bundle, section, paired)}})
    return section


def _practised(
    run: Path, texts: list[str], vectors: FloatArray, held: FloatArray, paired: _Paired, tau: float
) -> tuple[list[str], FloatArray, FloatArray]:
    """Texts and vectors as they are practised, and those held out as they would be asked; kept beside the run.

    By what they are made of: another machine's sums end in other digits, and a run goes on with what it began with.
    """
    made_of = (*texts, vectors.tobytes(), held.tobytes(), paired.gaps.tobytes(), repr((tau, ASKED, _UPON)))
    path = run / f"practised-{_key(*made_of)}.npz"
    if not path.is_file():
        upon = vectors[np.random.default_rng(0).permutation(len(vectors))[:_UPON]]
        _, taught = practised(texts, vectors, paired.gaps, upon, tau)
        asked = as_asked(held, paired.gaps, upon, tau, np.random.default_rng(1))
        halves = {"taught": taught.astype(np.float16), "asked": asked.astype(np.float16)}
        write_atomic(path, lambda draft: save_arrays(draft, **halves))
    with np.load(path) as kept:
        return texts * (1 + ASKED), kept["taught"].astype(np.float32), kept["asked"].astype(np.float32)


def _facts(lesson: Lesson, bundle: Bundle, section: Mapping[str, Any], paired: _Paired | None) -> dict[str, str]:
    """What the card says of this decoder, in place of what it said of another; the bundle's memory is the same."""
    before = bundle.manifest.extra.get("captions") or {}
    kept = {name: told for name, told in before.get("facts", {}).items() if name == "memory"}
    noise = f"noise of {section['sigma']:.3g}"
    gap = f", {lesson.bridging} by {len(paired.words)} pairs" if paired and lesson.bridging != "noise" else ""
    return kept | {
        "decoder": f"{section['parameters']:,} parameters, {lesson.steps:,} steps, {noise}{gap}",
        "learnt from": f"{len(lesson.texts):,} captions in {', '.join(_spoken(lesson.languages))}",
        "judged": "not yet: `earshot eval captions` does",
    }


def _held_out(lesson: Lesson, vectors: FloatArray, rows: list[int]) -> HeldOut | None:
    """The texts in ``rows``, of which ``vectors [rows, dim]`` are what the decoder is asked with."""
    if not rows:
        return None
    texts, languages = [lesson.texts[row] for row in rows], [lesson.languages[row] for row in rows]
    return HeldOut(texts, vectors, languages, _figures)


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


def _vectors(encoders: OnnxEncoders, name: str, texts: Sequence[str], run: Path) -> FloatArray:
    """The texts' unit vectors ``[n, dim]``, kept in float16 beside the run, by what they are of and in which space."""
    path = run / f"{name}-{_key(encoders.space.space_id, *texts)}.npy"
    if not path.is_file():
        parts = [encoders.text.encode_text(texts[i : i + _AT_ONCE]) for i in range(0, len(texts), _AT_ONCE)]
        found = np.concatenate(parts)
        write_atomic(path, lambda draft: save_array(draft, found.astype(np.float16)))
    return np.asarray(np.load(path), np.float32)


def _key(*of: str | bytes) -> str:
    """A short name for what something is made of."""
    digest = hashlib.sha256()
    for one in of:
        held = one.encode() if isinstance(one, str) else one
        digest.update(len(held).to_bytes(8, "little") + held)
    return digest.hexdigest()[:12]


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


def _bridge(encoders: OnnxEncoders, lesson: Lesson, run: Path) -> tuple[Bridge, _Paired | None]:
    """Noise, and from the pairs, if there are any, shift or adapter; what noise they would say is printed."""
    noise = NOISE if lesson.noise is None else lesson.noise
    if lesson.pairs is None:
        return Bridge(noise), None
    paired = _paired(encoders, lesson, lesson.pairs, run)
    estimate = sigma_of_pairs(paired.sounds[:PAIRS], paired.words[:PAIRS])
    print(f"noise {noise:.3g}; estimated from the pairs: {estimate:.3g}", flush=True)
    if lesson.bridging == "shift":
        return Bridge(noise, offset=shift(paired.sounds, paired.words)), paired
    if lesson.bridging == "adapter":
        matrix, offset = adapter(paired.sounds, paired.words)
        return Bridge(noise, matrix, offset), paired
    return Bridge(noise), paired


def _paired(encoders: OnnxEncoders, lesson: Lesson, pairs: Path, run: Path) -> _Paired:
    """Captioned sounds, no more of them than are needed, in random order; those that can't be heard are told and left
    out. Raises ``QueryError`` for fewer than two.
    """
    clips = [clip for clip in read_data(pairs).examples if clip.captions and not clip.member]
    clips = [clips[number] for number in np.random.default_rng(0).permutation(len(clips))]  # lists come sorted
    clips = clips[:PAIRS] if lesson.bridging == "noise" else clips
    words = [clip.captions[0].text for clip in clips]
    heard = _heard(encoders, [clip.audio for clip in clips], run)
    known = np.flatnonzero(heard.any(axis=1))
    if len(known) < 2:
        raise QueryError(f"{len(known)} captioned sounds in {pairs}", f"{PAIRS}, better more", "name others")
    if len(known) < PAIRS:
        print(f"{len(known)} pairs are few: {PAIRS}, better more, tell what lies between sounds and words", flush=True)
    return _Paired(heard[known], _vectors(encoders, "words", [words[row] for row in known], run))


def _heard(encoders: OnnxEncoders, paths: Sequence[Path], run: Path) -> FloatArray:
    """Sounds' unit vectors ``[n, dim]``, kept beside the run by path, size and time; zeros where one can't be heard."""
    stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else path for path in paths]
    file = run / f"sounds-{_key(encoders.space.space_id, *map(repr, stamps))}.npy"
    if not file.is_file():
        found = np.zeros((len(paths), encoders.space.dim), np.float32)
        for row, path in enumerate(paths):
            try:
                [windows] = hear(encoders, [path])
                found[row] = normalise(windows.mean(axis=0, keepdims=True))[0]
            except (AudioError, OSError) as error:
                print(f"left out {path}: {error}", flush=True)
        write_atomic(file, lambda draft: save_array(draft, found))
    return np.asarray(np.load(file))
