"""How the starter's captions are best asked for and chosen, on held-out clips: a table of docs/experiments.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.bundle import open_bundle
from engine.captioner import Captioner
from engine.distinctive import SHARE, Distinctive
from engine.memory.captions import ShippedCaptions
from engine.retrieval_captioner import RetrievalCaptioner
from engine.types import Caption, Remembered
from trainer.caption_metrics import sound_figures, text_figures
from trainer.recipes.caption_tables import table
from trainer.recipes.caption_verdict import Counted
from trainer.recipes.captions import Work, centres

_TOLD = ("BLEU-1", "ROUGE-L", "CIDEr-D", "vocabulary", "caption-audio similarity", "own clip R@10")


@dataclass(frozen=True)
class Choice:
    """A way to ask: of the captioner's settings what isn't as it ships, and how much of what sounds have in common is
    taken away. ``remembered``: whether remembered captions may be said; ``decoder``: whether anything else may."""

    name: str
    share: float = SHARE
    remembered: bool = True
    decoder: bool = True
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
    Choice("projection (shipped)"),
)


class _OwnWords(Captioner):
    """Says none of the remembered captions."""

    def _caption(self, sound: Any, beams: Any, evidence: tuple[Remembered, ...]) -> Caption:
        return super()._caption(sound, beams, ())


def choices(work: Work) -> str:
    """A table of what each of ``CHOICES`` makes of the held-out clips."""
    heard = work.heard("held", work.held)
    references = [clip.captions for clip in work.held]
    rows = []
    for choice in CHOICES:
        said = [caption.text for caption in _captioner(work, choice).caption(centres(heard))]
        figures = text_figures(said, references) + sound_figures(work.encoded([one or "." for one in said]), heard)
        found = {figure.name: figure.value for figure in figures}
        length = np.mean([len(one.split()) for one in said])
        rows.append([choice.name, *(f"{found[name]:.3f}".removesuffix(".000") for name in _TOLD), f"{length:.1f}"])
    return table(("said", *_TOLD, "words a caption"), rows)


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
