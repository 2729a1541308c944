"""Bytes -> damaged bytes, the same for the same seed: what disks, networks, broken recorders and enemies do."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

#: Where headers are: most of a decoder's decisions are taken on these bytes.
HEAD = 512
_EXTREMES = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
_LONG_EXTREMES = (0, 1, 10**12, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
#: More than this never comes out: mutants stay small, whatever is doubled.
MAX_BYTES = 1 << 20


def mutate(content: bytes, rng: random.Random) -> bytes:
    """One to four kinds of damage, one after the other."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        if len(data) < 4:
            break
        rng.choice(_DAMAGES)(data, rng)
    return bytes(data[:MAX_BYTES])


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, more often near the start."""
    return rng.randrange(min(HEAD, len(data)) if rng.random() < 0.6 else len(data))


def _flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    at, length = _place(data, rng), rng.choice((1, 4, 16, 128, 4096))
    length = min(length, len(data) - at)
    data[at : at + length] = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 64, 1024))]


def _repeat(data: bytearray, rng: random.Random) -> None:
    at, length = _place(data, rng), rng.choice((1, 8, 64, 1024))
    piece = bytes(data[at : at + length]) * rng.choice((1, 2, 50))
    data[at:at] = piece


def _swap(data: bytearray, rng: random.Random) -> None:
    length = rng.choice((2, 4, 8, 64, 512))
    one, other = sorted((_place(data, rng), _place(data, rng)))
    if one + length <= other and other + length <= len(data):
        data[one : one + length], data[other : other + length] = (
            data[other : other + length],
            data[one : one + length],
        )


def _extreme(data: bytearray, rng: random.Random) -> None:
    """A number of a header field, at an even place, at an end of its range."""
    order = rng.choice("<>")
    kind, values = rng.choice((("H", _EXTREMES[:10]), ("I", _EXTREMES), ("I", _EXTREMES), ("Q", _LONG_EXTREMES)))
    field = struct.pack(order + kind, rng.choice(values))
    at = _place(data, rng) & ~1
    data[at : at + len(field)] = field


_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_bits,
    _overwrite,
    _truncate,
    _delete,
    _repeat,
    _swap,
    _extreme,
    _extreme,
)
