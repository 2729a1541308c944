"""Which clips belong to which queries, for the curves of relevance of ``exporters.calibration``. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.types import FloatArray
from exporters.asking import best_windows, similar
from exporters.calibration import Floats, Found, fit_curve


@dataclass(frozen=True, slots=True)
class Held:
    """Clips that no tower has learnt from, and what is asked about them.

    ``windows``: each clip's vectors ``[windows, dim]``; ``asked``: those it is searched with ``[m, dim]``; ``alike
    [clips, clips]``: how near the clips' texts are in meaning; ``sources`` say whose each clip is. ``phrases``: the
    parallel text's queries ``[concepts, dim]`` in each language; ``meant [concepts, clips]``: how near they are to the
    clips' texts, and ``hears [concepts, clips]``: how near the untrained tower hears a clip to a concept, in cosines.
    """

    windows: list[FloatArray]
    asked: list[FloatArray]
    alike: Floats
    sources: Sequence[str]
    phrases: Mapping[str, FloatArray]
    meant: Floats
    hears: Floats


#: Texts nearer than this mean the same, texts farther than this have nothing in common.
SAME, DIFFERENT = 0.75, 0.35
#: File names leave much unsaid ("forest" may hold birds, "lose" is a jingle), so a text belongs to a clip where the
#: words say so and the teacher hears it at least this well, and doesn't where neither is so.
HEARD = 0.35
#: Languages whose queries share a curve; which one is meant is seen from the script.
GROUPS = {"text": ("eng", "fra", "deu", "spa", "nld", "cat"), "text-cjk": ("jpn", "zho")}


def calibrations(held: Held, seed: int = 0) -> dict[str, Found]:
    """Curves for queries in words (one for each group of languages) and for sounds (``audio``).

    What a sound is to find is another source's clip.
    """
    source = np.array(held.sources)
    same, different = held.alike > SAME, held.alike < DIFFERENT
    sounds = similar(held.asked, held.windows)
    found = {"audio": fit_curve(sounds, same & (source[:, None] != source[None]), different, seed, first_answer=False)}
    wanted, unwanted = held.meant > SAME, held.meant < DIFFERENT
    wanted, unwanted = wanted & (held.hears >= HEARD), unwanted & (held.hears < HEARD)
    for group, languages in GROUPS.items():
        asked = [held.phrases[language] for language in languages if language in held.phrases]
        scores = best_windows(np.concatenate(asked), held.windows)
        times = (len(asked), 1)
        found[group] = fit_curve(scores, np.tile(wanted, times), np.tile(unwanted, times), seed, True)
    return found
