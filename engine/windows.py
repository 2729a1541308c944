"""Clip -> Windows: the same cuts for the same sound, always."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from engine.errors import AudioError
from engine.types import FloatArray, Pad, Space, Window


def cut(blocks: Iterable[FloatArray], space: Space) -> Iterator[Window]:
    """Cut mono blocks at ``space.sample_rate_hz`` into windows of ``space.window_s`` every ``space.hop_s``.

    Only whole windows are cut; where they don't reach the end of the clip, one more ends with it. A clip shorter
    than one window gives one window, padded as the space says, whose ``end_s`` is the clip's own end.
    Holds one window and one block at a time. Raises ``AudioError`` if there are no samples.
    """
    size, hop, rate = space.window_samples, space.hop_samples, space.sample_rate_hz
    held = np.empty(0, np.float32)
    held_from = total = start = index = 0

    def window(at: int) -> Window:
        return Window(index, at / rate, (at + size) / rate, held[at - held_from : at - held_from + size])

    for block in blocks:
        held = np.concatenate((held, block))
        total += len(block)
        while start + size <= total:
            yield window(start)
            index += 1
            start += hop
        # What a window to come may need: the next one, and the one that ends with the clip.
        needed_from = max(held_from, min(start, total - size))
        held, held_from = held[needed_from - held_from :], needed_from
    if not total:
        raise AudioError("no samples", "a sound", "check whether the file plays")
    if not index:
        yield Window(0, 0.0, total / rate, pad_to(held, size, space.pad))
    elif start - hop + size < total:
        yield window(total - size)


def window_starts(samples: int, size: int, hop: int) -> list[int]:
    """The first samples of the windows that ``cut`` makes of a clip of so many ``samples``, at least one."""
    starts = list(range(0, max(1, samples - size + 1), hop))
    return [*starts, samples - size] if starts[-1] + size < samples else starts


def pad_to(samples: FloatArray, size: int, pad: Pad) -> FloatArray:
    """``[n]`` samples, 1 <= n <= size, made ``[size]``.

    ``repeat`` repeats them and cuts the last; ``repeatpad`` repeats them whole and fills up with zeros, as LAION's
    CLAP was trained; ``zero`` fills up with zeros.
    """
    if pad == "repeat":
        return np.resize(samples, size)
    if pad == "repeatpad":
        samples = np.tile(samples, size // len(samples))
    return np.pad(samples, (0, size - len(samples)))
