"""What the starter's captions are worth, asked through the engine as a user would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.bundle import Calibration, open_bundle
from engine.captioner import Captioner
from engine.memory.captions import Said, ShippedCaptions
from engine.retrieval_captioner import RetrievalCaptioner
from engine.types import FloatArray, Remembered
from exporters.amend import amend
from exporters.captioner import calibrate_captions
from trainer.caption_metrics import sound_figures, text_figures
from trainer.caption_trust import caption_curve
from trainer.evaluate import Figure, table
from trainer.parallel import LANGUAGES
from trainer.recipes.caption_shipping import described, told_before
from trainer.recipes.captions import Work, centres
from trainer.references import Referenced

PROTOCOL = (
    "Asked once with each of four audio towers by the decoder before, and twice by this one, the second time without "
    "captions that say a thing twice; on the dev split: English captions of 223 recordings of 45 kinds, each from the "
    "mean of its windows, against four captions of its kind written beforehand by the writer of the memory (a language "
    "model), who had only the kinds' names. No caption of these is remembered or was learnt."
)


def said(work: Work, sounds: FloatArray, **asked: Any) -> list[str]:
    """What the bundle says in English of sounds ``[n, dim]``, out of its own memory; ``asked``: see ``Captioner``."""
    bundle = open_bundle(work.bundle)
    held = ShippedCaptions(work.bundle / "memory.npz", work.encoders.space.dim)
    captioner = Captioner(bundle, work.encoders, Counted(held), device="cpu", threads=1, **asked)
    return [caption.text for caption in captioner.caption(sounds)]


@dataclass(frozen=True)
class Counted:
    """The shipped captions as ``Captioner`` asks for them."""

    held: ShippedCaptions

    def nearest(self, vector: FloatArray, k: int) -> list[Remembered]:
        """See ``Remembering.nearest``."""
        return self.held.nearest(vector, k)

    def said(self, limit: int) -> tuple[FloatArray, list[Said]]:
        """See ``Remembering.said``."""
        return self.held.said(limit)

    def count(self) -> int:
        """See ``Remembering.count``."""
        return len(self.held)


def judged(work: Work, clips: Sequence[Referenced], heard: Sequence[FloatArray], **asked: Any) -> list[Figure]:
    """What the bundle's captions of ``clips`` are worth; ``heard`` are their windows ``[windows, dim]``."""
    told = said(work, centres(heard), **asked)
    vectors = work.encoded([text or "." for text in told])
    return text_figures(told, [clip.captions for clip in clips]) + sound_figures(vectors, heard)


def trust(work: Work) -> None:
    """Put into the bundle how far its captions are to be believed, as the held-out clips say."""
    sounds = centres(work.heard("held", work.held))
    curve, nearest = _curve(work, sounds, said(work, sounds)), nearest_curves(work, sounds)
    print(curve, *nearest.items(), sep="\n", flush=True)
    work.let_go()
    calibrate_captions(work.bundle, curve, nearest.pop("eng"), nearest)


def nearest_curves(work: Work, sounds: FloatArray) -> dict[str, Calibration]:
    """How far the nearest caption of a language is to be believed of held-out sounds ``[n, dim]``, for each language.

    Each sentence remembered was written in all of them: it is right where the English one is. Sounds without an event
    are left out: what is said of these has no curve.
    """
    shipped = ShippedCaptions(work.bundle / "memory.npz", work.encoders.space.dim)
    captions = work.events + work.sentences
    english = {(described(one, lang), lang): described(one, "eng") for one in captions for lang in LANGUAGES}
    curves = {}
    for language in LANGUAGES:
        told = RetrievalCaptioner(work.encoders, Counted(shipped), language).caption(sounds)
        rows = [row for row, one in enumerate(told) if one.evidence and (one.text, language) in english]
        cosines = np.array([told[row].evidence[0].score for row in rows])
        meant = [english[told[row].text, language] for row in rows]
        curves[language] = caption_curve(meant, [work.held[row].captions for row in rows], cosines)
    return curves


def _curve(work: Work, sounds: FloatArray, told: Sequence[str]) -> Calibration:
    cosines = (work.encoded([text or "." for text in told]) * sounds).sum(axis=1)
    return caption_curve(told, [clip.captions for clip in work.held], cosines)


def verdict(work: Work) -> str:
    """The bundle's captions of the dev split: written on its card, and returned as a table."""
    found = judged(work, work.dev, work.heard("dev", work.dev))
    told = {"protocol": PROTOCOL, "scores": [asdict(figure) for figure in found]}
    amend(work.bundle, {"captions": {**told_before(work.bundle), **told}})
    return table(found)
