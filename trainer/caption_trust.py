"""How far a caption is to be believed: a curve from its cosine with the sound, fitted where people said what it is.

The curve for words asks whether a sound found for them is right; the best of five thousand sentences for a sound is
always rather near, right or not.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Calibration
from engine.types import FloatArray
from exporters.calibration import fit_logistic
from trainer.caption_metrics import words

#: Below this chance a caption is marked as unsure.
CUTOFF = 0.25
#: Endings that change no meaning here.
_ENDING = re.compile(r"(?<=..)(?:ing|ed|es|s)$")
_EMPTY = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "of",
        "on",
        "in",
        "at",
        "to",
        "and",
        "or",
        "with",
        "while",
        "by",
        "for",
        "from",
        "as",
        "its",
        "it",
        "some",
        "someone",
        "something",
        "sound",
        "sounds",
        "sounding",
        "noise",
        "being",
        "then",
        "that",
        "this",
        "into",
        "out",
        "up",
        "down",
        "over",
        "off",
        "two",
        "several",
        "another",
        "other",
        "very",
        "one",
        "person",
        "people",
        "heard",
        "can",
        "background",
        "loud",
        "loudly",
        "soft",
        "softly",
        "quiet",
        "quietly",
    ]
)


def caption_curve(captions: Sequence[str], references: Sequence[Sequence[str]], cosines: FloatArray) -> Calibration:
    """The chance that a caption names something that a reference of its sound names, by ``cosines [n]``.

    Raises ``ValueError`` if all captions are right, or all are wrong, or the nearer are no better.
    """
    right = rightness(captions, references)
    if right.all() or not right.any():
        raise ValueError(f"found {int(right.sum())} right captions of {len(right)}, expected some of both kinds")
    slope, intercept = fit_logistic(cosines.astype(np.float64), right)
    if slope <= 0:
        raise ValueError("found right captions farther from their sounds than wrong ones, expected them nearer")
    # The fit takes both kinds for equally frequent; here the chance itself is wanted.
    return Calibration(slope, intercept + math.log(right.sum() / (~right).sum()), CUTOFF)


def rightness(captions: Sequence[str], references: Sequence[Sequence[str]]) -> NDArray[np.bool_]:
    """Whether each caption shares a word that says something with any reference of its sound, in English."""
    return np.array([
        bool(_told(caption) & set().union(*(_told(reference) for reference in each)))
        for caption, each in zip(captions, references, strict=True)
    ])  # fmt: skip


def _told(text: str) -> set[str]:
    return {_ENDING.sub("", word) for word in words(text) if word not in _EMPTY and len(word) > 2}
