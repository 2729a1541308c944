"""Which of several captions tells a sound from others: not the one that lies near to every sound.

"Something" and "a piece of music" are near to whatever is heard. What sounds have in common, their mean, is taken from
the sound in part before captions are compared with it; the space's hubs (Radovanovic et al., JMLR 11, 2010) lose most.
"""

from __future__ import annotations

import numpy as np

from engine.bundle import Bundle
from engine.eventless import anchors_in
from engine.types import FloatArray

#: How much of what sounds have in common doesn't count: chosen on held-out clips (docs/experiments.md).
SHARE = 0.5


class Distinctive:
    """Compares captions with a sound, by a bundle whose sounds have the mean ``common [dim]``, or 0: as cosines do."""

    def __init__(self, common: FloatArray | np.float32) -> None:
        self.common = common

    def likeness(self, captions: FloatArray, sound: FloatArray) -> FloatArray:
        """Of captions ``[n, dim]`` with a sound ``[dim]``: ``[n]``, the larger the better; no cosine."""
        return np.asarray(captions @ (sound - SHARE * self.common))


def distinctive_of(bundle: Bundle | None) -> Distinctive:
    """As a bundle has it; nothing is in common where it can't caption, or there is none. Raises ``BundleError``."""
    part = bundle.manifest.captioner if bundle is not None else None
    if bundle is None or part is None or part.space_id != bundle.manifest.space_id:
        return Distinctive(np.float32(0))
    return Distinctive(anchors_in(bundle, part.anchors)["common"])
