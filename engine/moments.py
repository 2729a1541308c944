"""A sound's windows -> its moments: neighbours that sound the same are one, whatever they will be called.

A moment is as many windows as stay alike: the next one belongs to it while its cosine with the moment's mean is at
least ``floor``. Only a sum is kept, so a recording of a day costs no more than one of a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from engine.bundle import Calibration
from engine.types import FloatArray, Nothing, Window

#: What is alike in a space of which nobody measured it.
UNMEASURED = 0.8
#: The share of windows of noise that may be taken for something else; see ``engine.noise``.
STRAY = 0.15


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring windows that sound the same: where, and their mean, a unit vector ``[dim]``.

    ``eventless`` where next to none of the windows has an event.
    """

    start_s: float
    end_s: float
    vector: FloatArray
    eventless: Nothing = ""


def alike_from(curves: Mapping[str, Calibration]) -> float:
    """The cosine from which two windows sound the same: where sound against sound reaches the bundle's cutoff."""
    curve = curves.get("audio")
    if curve is None or not 0 < curve.cutoff < 1:
        return UNMEASURED
    return min(max((math.log(curve.cutoff / (1 - curve.cutoff)) - curve.intercept) / curve.slope, 0.0), 1.0)


def stretches(windows: Iterable[tuple[Window, FloatArray]], floor: float) -> Iterator[Stretch]:
    """Windows with their unit vectors ``[dim]``, in order -> moments that follow upon each other without overlap.

    Windows overlap; what two moments share belongs to the later one, whose first window hears something new.
    """
    total: FloatArray | None = None
    kinds: Counter[Nothing] = Counter()
    start_s = end_s = 0.0
    for window, vector in windows:
        if total is not None and float(total @ vector) < floor * float(np.linalg.norm(total)):
            yield _stretch(start_s, min(end_s, window.start_s), total, kinds)
            total = None
        if total is None:
            total, start_s, kinds = np.zeros_like(vector), window.start_s, Counter()
        total = total + vector
        kinds[window.eventless] += 1
        end_s = window.end_s
    if total is not None:
        yield _stretch(start_s, end_s, total, kinds)


def _stretch(start_s: float, end_s: float, total: FloatArray, kinds: Counter[Nothing]) -> Stretch:
    eventless: Nothing = ""
    if kinds[""] <= STRAY * kinds.total():
        eventless = "noise" if kinds["noise"] else "silent"
    return Stretch(start_s, end_s, np.asarray(total / np.linalg.norm(total), np.float32), eventless)
