"""A sound's windows -> its moments: neighbours that sound the same are one, whatever they will be called.

A moment is as many windows as stay alike: the next one belongs to it while its cosine with the moment's mean is at
least ``floor``. Only a sum is kept, so a recording of a day costs no more than one of a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from engine.bundle import Calibration
from engine.types import FloatArray, Window

#: What is alike in a space of which nobody measured it.
UNMEASURED = 0.8


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring windows that sound the same: where, and their mean, a unit vector ``[dim]``."""

    start_s: float
    end_s: float
    vector: FloatArray


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
    start_s = end_s = 0.0
    for window, vector in windows:
        if total is not None and float(total @ vector) < floor * float(np.linalg.norm(total)):
            yield _stretch(start_s, min(end_s, window.start_s), total)
            total = None
        if total is None:
            total, start_s = np.zeros_like(vector), window.start_s
        total = total + vector
        end_s = window.end_s
    if total is not None:
        yield _stretch(start_s, end_s, total)


def _stretch(start_s: float, end_s: float, total: FloatArray) -> Stretch:
    return Stretch(start_s, end_s, np.asarray(total / np.linalg.norm(total), np.float32))
