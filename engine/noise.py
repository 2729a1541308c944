"""Windows in which there is steady noise and nothing else, known by their samples.

Noise without an event is a stationary Gaussian process, and of nothing else is this true: over frames of time each
band's power, by its own mean, is chi-squared with two degrees of freedom, and so is each line of the spectrum by its
neighbours (Welch 1967; Johnson and Long 1999). A drop of rain, a voice, a tone, a click or a decay breaks one or the
other; white, pink, brown and filtered noise don't, however short, however loud, and whatever their colour.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from engine.types import Window

#: The payload key that windows of noise have, of value 1, and others have not.
NOISE: Literal["noise"] = "noise"

_Floats = NDArray[np.float64]

#: A sound in silence begins and ends where frames of so many seconds have this share of the loudest one's power; what
#: lies outside is to have less, on the whole, than this share of what lies inside.
_FRAME_S, _LOUD, _OUTSIDE = 0.004, 1e-3, 1e-3
#: Frames of silence vary by less than this share of the whole; samples at the edges of a sound are as large as this.
_STILL, _EDGE = 1e-5, 0.2
#: What varies by less than this share of its power is a constant, switched on and off.
_CONSTANT = 1e-9
#: Less than this, in seconds and in samples, can't be told from a click or a tone. Where it goes on beyond the edge of
#: the window, where the other windows hear it, less is enough.
SHORTEST_S = 0.01
_SHORTEST, _SHORTEST_AT_EDGE = (SHORTEST_S, 160), (0.005, 64)
#: Powers in as many blocks of a steady sound differ by no more than this factor: most windows need no other look.
_BLOCKS, _EVEN = 6, 2.5
#: Frames are a power of two of samples, between these, and about ``_FRAMES`` of them follow another at least.
_SMALLEST, _LARGEST, _FRAMES = 32, 512, 8
#: Lines of so much less power than the strongest are the leakage of others.
_LEAKAGE = 1e-5
#: Groups of lines whose powers over time are looked at apart.
_BANDS = 4
#: Neighbours on either side that a line is compared with, from the next but one on; fewer of a short sound.
_MOST_NEIGHBOURS, _FEWEST_NEIGHBOURS, _GUARD = 24, 6, 2

#: What adjacent lines of a Hann window have in common makes the variance of their mean so many times larger.
_SHARED = 1.94
#: Standard deviations of power over time, of all lines together and of each group, and of single powers: what real
#: sounds exceed and one in some hundred noises.
_MOST_TOGETHER, _MOST_APART, _MOST_SINGLE = 3.2, 3.6, 8.0
#: A tone's powers hardly vary at all, also in a piece so short that noise's might vary half as much as they should.
_LEAST_SINGLE = 0.4
#: The mean logarithms of lines above and below their neighbours, in noise 0.19 and 0.69, and by how much fewer lines
#: may have more, over the root of their number.
_ABOVE, _BELOW = (0.20, 1.3), (0.72, 1.6)
#: The chance that one of all lines is as high as the highest; less than that is no chance.
_STRAY_LINE = 1e-3
_TINY = float(np.finfo(np.float64).tiny)


def is_noise(window: Window, sample_rate_hz: int) -> bool:
    """Whether all that is heard in a window is steady noise: all of it, or a piece with silence about it.

    Its padding doesn't count. Of silence it is not asked.
    """
    size = min(round((window.end_s - window.start_s) * sample_rate_hz), len(window.samples))
    samples = window.samples[:size].astype(np.float64)
    first, last = _loud(samples, sample_rate_hz)
    heard = samples[first:last]
    seconds, least = _SHORTEST_AT_EDGE if (first > 0) != (last < size) else _SHORTEST
    if len(heard) < max(seconds * sample_rate_hz, least) or heard.var() <= _CONSTANT * np.square(heard).mean():
        return False
    return _is_even(heard) and _is_stationary(heard - heard.mean())


def _loud(samples: _Floats, sample_rate_hz: int) -> tuple[int, int]:
    """From which sample of ``[n]`` to which it is loud; from 0 to 0 if there is more than silence outside."""
    frame = max(2, round(_FRAME_S * sample_rate_hz))
    whole = max(1, len(samples) // frame)
    frames = samples[: whole * frame].reshape(whole, -1)
    still = frames.var(axis=1) < _STILL * samples.var()
    samples = samples - np.median(frames[still] if still.any() else samples)
    powers = np.square(samples[: whole * frame]).reshape(whole, -1).mean(axis=1)
    loud = np.flatnonzero(powers >= _LOUD * powers.max())
    first, last = int(loud[0]), int(loud[-1]) + 1
    inside, outside = powers[first:last].mean(), np.delete(powers, slice(first, last))
    if len(outside) and outside.mean() > _OUTSIDE * inside:
        return 0, 0
    begin, end = first * frame, last * frame if last < whole else len(samples)
    heard = begin + np.flatnonzero(np.abs(samples[begin:end]) > _EDGE * np.sqrt(inside))
    return (int(heard[0]) if begin else 0), (int(heard[-1]) + 1 if end < len(samples) else end)


def _is_even(samples: _Floats) -> bool:
    """Whether a long sound's power, its high frequencies raised, is about the same all along."""
    size = len(samples) // _BLOCKS
    if size < _BLOCKS * _LARGEST:
        return True
    steps = np.diff(samples[: size * _BLOCKS], prepend=samples[0])
    powers = np.square(steps).reshape(_BLOCKS, -1).mean(axis=1)
    return bool(powers.max() <= _EVEN * powers.min())


def _is_stationary(samples: _Floats) -> bool:
    """Whether samples ``[n]`` are a piece of Gaussian noise that has no lines and doesn't change.

    By the deviation of what is measured from what such noise gives: of a hundred pieces about one is taken for
    something else.
    """
    powers = _powers(samples)
    frames, lines = powers.shape
    degrees = frames - 1
    bands = [_spread(band) for band in np.array_split(powers, min(_BANDS, lines), axis=1)]
    if _normal(_spread(powers), degrees) > _MOST_TOGETHER or _normal(max(bands), degrees) > _MOST_APART:
        return False
    single = float(powers.var()) * (frames + 1) / degrees
    if single < _LEAST_SINGLE or abs(single - 1) > _MOST_SINGLE / np.sqrt(powers.size):
        return False
    return _has_no_lines(samples)


def _powers(samples: _Floats) -> _Floats:
    """Of samples ``[n]`` the power of each line in each frame, by its mean over the frames: ``[frames, lines]``."""
    size = int(np.clip(2 ** round(np.log2(len(samples) / _FRAMES)), _SMALLEST, _LARGEST))
    frames = sliding_window_view(samples, size)[:: size // 2]
    powers = np.square(np.abs(np.fft.rfft(frames * np.hanning(size + 2)[1:-1], axis=1)))[:, 1:-1]
    means = powers.mean(axis=0)
    told = means > _LEAKAGE * means.max()
    return np.asarray(powers[:, told] / means[told])


def _spread(powers: _Floats) -> float:
    """The variance over time of the mean of ``[frames, lines]``, by what noise gives: 1 / lines, and neighbours of a
    Hann window share some."""
    return float(powers.mean(axis=1).var(ddof=1) * powers.shape[1]) / _SHARED


def _normal(ratio: float, degrees: int) -> float:
    """A variance by its expected one, of so many degrees of freedom, in standard deviations (Wilson, Hilferty 1931)."""
    share: float = 2 / (9 * degrees)
    return float(np.cbrt(ratio) - (1 - share)) / math.sqrt(share)


def _has_no_lines(samples: _Floats) -> bool:
    """Whether no line of the spectrum of ``[n]`` stands out, nor all of them a little, nor gaps between them.

    Each is compared with its neighbours on both sides apart: the edge of a filter is no line. One is higher than the
    mean of ``m`` neighbours by more than x with the chance (1 + x / m) ** -m; the lowest lie on a slope too steep.
    """
    lines = np.square(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))[1:-1] + _TINY
    width = int(np.clip(len(lines) // _MOST_NEIGHBOURS, _FEWEST_NEIGHBOURS, _MOST_NEIGHBOURS))
    sums = np.concatenate([[0.0], np.cumsum(lines)])
    means = (sums[width:] - sums[:-width]) / width + _TINY
    at = np.arange(width + _GUARD, len(lines) - width - _GUARD)
    sides = np.stack([means[at - _GUARD - width], means[at + _GUARD + 1]])
    at, sides = (one[..., sides.max(axis=0) > _LEAKAGE * means.max()] for one in (at, sides))
    higher, lower = lines[at] / sides.max(axis=0), lines[at] / sides.min(axis=0)
    fewer = math.sqrt(len(at))
    above, below = np.log(np.maximum(higher, 1)).mean(), -np.log(np.minimum(lower, 1)).mean()
    if above > _ABOVE[0] + _ABOVE[1] / fewer or below > _BELOW[0] + _BELOW[1] / fewer:
        return False
    highest = higher[at > 4 * width].max(initial=0.0)
    return bool((1 + highest / width) ** -width * len(at) > _STRAY_LINE)
