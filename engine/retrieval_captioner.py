"""A sound's vector -> words where nothing turns vectors into words: what is remembered, word for word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from engine.bundle import Bundle, Calibration
from engine.caption_parts import (
    READ_AGAIN,
    SAMPLED,
    UNNAMED,
    WAY,
    Remembering,
    believed,
    digest,
    require_same_space,
    telling,
    units,
)
from engine.distinctive import distinctive_of
from engine.encoders import Encoders
from engine.eventless import Wordings, eventless_of
from engine.projection import EVIDENCE, nothing_remembered
from engine.search import calibration_for
from engine.types import Caption, FloatArray, Strategy

#: Among so many of the nearest a caption of the language is looked for.
_NEAR = 256


class RetrievalCaptioner:
    """For a bundle that can't put a vector into words: of the nearest captions remembered the most distinctive, word
    for word.

    Silence and noise are called so, as ``Captioner`` does.
    """

    notes = ("this bundle has no decoder for that: captions are the nearest of those remembered, word for word",)
    strategy: Strategy = "nearest"

    def __init__(self, encoders: Encoders, memory: Remembering, language: str | None = None) -> None:
        """Of ``language``, or English where any near one is. Raises ``QueryError`` if nothing is remembered."""
        if not memory.count():
            raise nothing_remembered(has_decoder=False)
        require_same_space(*memory.said(READ_AGAIN), encoders)
        self._encoders, self._memory, self._language = encoders, memory, language
        self.language = language or "eng"
        self.eventless, self._wordings = eventless_of(encoders), Wordings(encoders.text)
        bundle: Bundle | None = getattr(encoders, "bundle", None)
        self._distinctive = distinctive_of(bundle)
        part = bundle.manifest.captioner if bundle is not None else None
        ours = part if part is not None and part.space_id == encoders.space.space_id else None
        self._curve: Calibration | None = ours.nearest if ours else None
        self._curves: Mapping[str, Calibration] = ours.nearest_in if ours else {}

    @cached_property
    def identity(self) -> str:
        """See ``Captioner.identity``."""
        space_id = self._encoders.space.space_id
        eventless = hashlib.sha256(self.eventless.noise.tobytes() + self._distinctive.common.tobytes()).hexdigest()
        curves = (self._curve, *sorted(self._curves.items()), *sorted(self._encoders.calibration.items()))
        how = (WAY, space_id, self._language, curves, eventless)
        name = digest(how, self._memory.count(), self._memory.said(SAMPLED)[1])
        return f"{space_id.partition('@')[0]}-nearest#{name}"

    def caption(self, vectors: FloatArray) -> list[Caption]:
        """Vectors of sounds ``[n, dim]`` -> n captions; an empty one where none near is of the language.

        Raises ``QueryError`` for vectors of no sound.
        """
        sounds = units(vectors, self._encoders.space.dim)
        return [self.eventless.said(vector, self.language) or self._nearest(vector) for vector in sounds]

    def caption_events(self, vectors: FloatArray) -> list[Caption]:
        """See ``Captioner.caption_events``."""
        return [self._nearest(vector) for vector in units(vectors, self._encoders.space.dim)]

    def _nearest(self, vector: FloatArray) -> Caption:
        near = telling(self._memory.nearest(vector, _NEAR), self._wordings)
        fitting = [one for one in near if one.language in (self.language, *UNNAMED)]
        if not fitting and self._language is None:
            fitting = near
        if not fitting:
            return Caption("", 0.0, self.language)
        near = fitting[:EVIDENCE]
        best = near.pop(int(self._distinctive.likeness(np.stack([one.vector for one in near]), vector).argmax()))
        return believed(best.text, best.score, self.curve(best.text, best.language), best.language, (best, *near))

    def curve(self, text: str, language: str) -> Calibration:
        """See ``Captioner.curve``; that of its language first. Where the bundle has none for this it is that of words,
        and no chance: it believes too much of the best of many sentences."""
        return self._curves.get(language) or self._curve or calibration_for(text, self._encoders.calibration)
