"""A sound's windows -> its moments: neighbours that sound the same are one, whatever they will be called.

A moment is as many windows as stay alike: the next one belongs to it while its cosine with the moment's mean is at
least ``floor``, and its samples say the same of it: an event, silence or noise. A tower hears next to nothing of a
short event in silence, so a cosine alone would take the one for the other. Only a sum is kept, so a recording of a day
costs no more than one of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.bundle import Calibration
from engine.noise import NOISE
from engine.types import FloatArray, Nothing, Window

#: What is alike in a space of which nobody measured it.
UNMEASURED = 0.8


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring windows that sound the same: where, and their mean, a unit vector ``[dim]``.

    ``eventless`` where no window has an event.
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
    kind: Nothing = ""
    start_s = end_s = 0.0
    for window, vector in windows:
        if total is not None and (
            window.eventless != kind or float(total @ vector) < floor * float(np.linalg.norm(total))
        ):
            yield _stretch(start_s, min(end_s, window.start_s), total, kind)
            total = None
        if total is None:
            total, start_s, kind = np.zeros_like(vector), window.start_s, window.eventless
        total = total + vector
        end_s = window.end_s
    if total is not None:
        yield _stretch(start_s, end_s, total, kind)


def settled(
    windows: Iterable[tuple[Window, FloatArray]], sounds_like_noise: Callable[[FloatArray], bool]
) -> Iterator[tuple[Window, FloatArray]]:
    """The same windows with their vectors, but for odd ones: the test for noise misses one in some hundreds.

    One between two of noise that has an event by its samples, and none by its vector, is noise as they are: windows
    overlap, so an event is in more than one. One of noise between two that have an event is part of these.
    """
    before: Nothing | None = None
    odd: tuple[Window, FloatArray] | None = None
    for window, vector in windows:
        if odd is not None:
            odd = _as_neighbours(*odd, before, window.eventless, sounds_like_noise)
            yield odd
            before = odd[0].eventless
        odd = window, vector
    if odd is not None:
        yield odd


def _as_neighbours(
    window: Window,
    vector: FloatArray,
    before: Nothing | None,
    after: Nothing,
    sounds_like_noise: Callable[[FloatArray], bool],
) -> tuple[Window, FloatArray]:
    if before == after and {before, window.eventless} == {"", NOISE} and (before == "" or sounds_like_noise(vector)):
        return replace(window, eventless=after), vector
    return window, vector


def _stretch(start_s: float, end_s: float, total: FloatArray, eventless: Nothing) -> Stretch:
    return Stretch(start_s, end_s, np.asarray(total / np.linalg.norm(total), np.float32), eventless)
