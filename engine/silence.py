"""Windows in which there is nothing to hear, and queries that ask for just these.

A tower makes something of silence too, and some words lie there: 28 of 2,065 names were answered with it. So what is
silent is known by its samples, and words find it only if they mean it.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from engine.types import Clause, FloatArray, Window

#: Quieter than this about its mean, in dB below full scale (RMS 1), a window is silent: so are 16 bits of dither, -95,
#: a constant, and a tone above half the sample rate, -105. The faintest of 4,414 recordings with an event have -90.
SILENT_DBFS = -90.0
#: The resampler hears a step where a sound begins or ends away from 0, and rings for less than this.
_EDGE_S = 0.005
#: A query this near to the word for it means silence: "quiet" in eight languages is, and no name of another sound.
MEANS_SILENCE = 0.7
#: That word, for the text tower of any bundle.
SILENCE = "silence"
#: The payload key that silent windows have, of value 1. Those with an event have 0, and noise has none; see
#: ``engine.eventless``.
SILENT: Literal["silent"] = "silent"
#: What holds where there is something to hear; of what was indexed before windows were looked at, everywhere.
AUDIBLE = Clause(SILENT, "!=", 1)


def is_silent(window: Window, sample_rate_hz: int) -> bool:
    """Whether there is nothing to hear in a window; its padding and what lies at its edges don't count."""
    size = min(round((window.end_s - window.start_s) * sample_rate_hz), len(window.samples))
    edge = min(round(_EDGE_S * sample_rate_hz), size // 4)
    return bool(np.std(window.samples[edge : size - edge]) < 10 ** (SILENT_DBFS / 20))


def means_silence(query: FloatArray, silence: FloatArray) -> bool:
    """Whether a query's words ask for silence, by their vector and that of ``SILENCE``, unit ``[dim]`` each."""
    return float(query @ silence) >= MEANS_SILENCE
