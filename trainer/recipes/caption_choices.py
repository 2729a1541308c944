"""How the starter's captions are best asked for and chosen, on held-out clips: a table of docs/experiments.md."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from engine.bundle import open_bundle
from engine.captioner import Captioner
from engine.distinctive import SHARE, Distinctive
from engine.memory.captions import ShippedCaptions
from engine.retrieval_captioner import RetrievalCaptioner
from engine.types import Caption, FloatArray, Remembered
from trainer.caption_metrics import cider_d, sound_figures, text_figures, words
from trainer.metrics import bootstrap
from trainer.recipes.caption_shipping import learn, put
from trainer.recipes.caption_tables import table
from trainer.recipes.caption_verdict import Counted
from trainer.recipes.captions import Work, centres

_TOLD = ("BLEU-1", "ROUGE-L", "CIDEr-D", "vocabulary", "caption-audio similarity", "own clip R@10")


@dataclass(frozen=True)
class Choice:
    """A way to ask: of the captioner's settings what isn't as it ships, and how much of what sounds have in common is
    taken away. ``remembered``: whether remembered captions may be said; ``decoder``: whether anything else may;
    ``practised``: whether that is the decoder that ships, or one that hasn't practised on projections."""

    name: str
    share: float = SHARE
    remembered: bool = True
    decoder: bool = True
    practised: bool = True
    asked: dict[str, Any] = field(default_factory=dict)


CHOICES = (
    Choice("a remembered caption itself, the nearest", share=0, decoder=False),
    Choice("a remembered caption itself", decoder=False),
    Choice("audio", asked={"strategy": "audio"}),
    Choice("nearest", asked={"strategy": "nearest"}),
    Choice("projection, greedy", asked={"beams": 1}),
    Choice("projection, tau 0.01", asked={"tau": 0.01}),
    Choice("projection, tau 0.05", asked={"tau": 0.05}),
    Choice("projection, nothing in common taken away", share=0),
    Choice("projection, 0.3 of it", share=0.3),
    Choice("projection, 0.8 of it", share=0.8),
    Choice("projection, beams alone, nothing taken away", share=0, remembered=False),
    Choice("projection, beams alone", remembered=False),
    Choice("projection, without practice", practised=False),
    Choice("projection, without practice, beams alone, nothing taken away", 0, remembered=False, practised=False),
    Choice("projection (shipped)"),
)


class _OwnWords(Captioner):
    """Says none of the remembered captions."""

    def _caption(self, sound: Any, beams: Any, evidence: tuple[Remembered, ...]) -> Caption:
        return super()._caption(sound, beams, ())


def choices(work: Work) -> str:
    """A table of what each of ``CHOICES`` makes of the held-out clips; the last of them ships.

    A difference from it is of the same clips, drawn again together.
    """
    heard = work.heard("held", work.held)
    with TemporaryDirectory() as folder:
        other = unpractised(work, Path(folder))
        told = [_told(work if choice.practised else other, choice, centres(heard)) for choice in CHOICES]
    references = [clip.captions for clip in work.held]
    known = [[words(reference) for reference in of_clip] for of_clip in references]
    scores = [cider_d([words(caption) for caption in captions], known) for captions in told]
    rows = []
    for choice, captions, score in zip(CHOICES, told, scores, strict=True):
        vectors = work.encoded([caption or "." for caption in captions])
        figures = text_figures(captions, references) + sound_figures(vectors, heard)
        found = {figure.name: figure.value for figure in figures}
        low, high = bootstrap(score - scores[-1])
        less = "-" if choice is CHOICES[-1] else f"{(score - scores[-1]).mean():+.3f} ({low:+.3f} to {high:+.3f})"
        length = np.mean([len(caption.split()) for caption in captions])
        cells = (f"{found[name]:.3f}".removesuffix(".000") for name in _TOLD)
        rows.append([choice.name, *cells, f"{length:.1f}", less])
    return table(("said", *_TOLD, "words a caption", "CIDEr-D, less what ships"), rows)


def unpractised(work: Work, folder: Path) -> Work:
    """The same with a decoder that hasn't practised; its bundle lies in ``folder``."""
    bundle = Path(shutil.copytree(work.bundle, folder / work.bundle.name))
    put(work, *learn(work, practice=False), bundle)
    return replace(work, bundle=bundle)


def _told(work: Work, choice: Choice, sounds: FloatArray) -> list[str]:
    return [caption.text for caption in _captioner(work, choice).caption(sounds)]


def _captioner(work: Work, choice: Choice) -> Captioner | RetrievalCaptioner:
    memory = Counted(ShippedCaptions(work.bundle / "memory.npz", work.encoders.space.dim))
    if choice.decoder:
        kind = Captioner if choice.remembered else _OwnWords
        captioner: Captioner | RetrievalCaptioner = kind(
            open_bundle(work.bundle), work.encoders, memory, device="cpu", threads=1, **choice.asked
        )
    else:
        captioner = RetrievalCaptioner(work.encoders, memory, "eng")
    captioner._distinctive = Distinctive(captioner._distinctive.common * np.float32(choice.share / SHARE))
    return captioner
