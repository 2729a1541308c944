"""How a memory is asked from another process: frames of JSON and float32 over a local socket. Nothing in them is code.

A frame is two sizes (JSON, floats; 32 bits each, network order), the JSON, and the floats (little-endian float32). One
connection carries one question and its answer, so both sides are without memory of each other:

    question  {"protocol": 1, "ask": "count", "space": [space_id, dim], ...}
    answer    {"items": []} at once, {"items": [...]} as often as needed, then {"end": true};
              instead of any of these {"error": [class, found, expected, action]}

Questions and errors look the same in all versions, so that each can tell the other that it is of another one.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from engine import errors
from engine.errors import EarshotError, MemoryStoreError
from engine.types import Clause, Filter, FloatArray

PROTOCOL = 2
#: No frame is larger, in either part; nor is a question, the most that a stranger can make a holder hold.
MOST_BYTES, MOST_ASKED_BYTES = 64 * 1024 * 1024, 4 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024
_HEAD = struct.Struct("!II")
_FLOAT = np.dtype("<f4")

Item = tuple[list[Any], FloatArray | None]


class WireError(Exception):
    """What came is no frame of ours, or ended in the middle of one."""


def send(
    to: socket.socket, message: dict[str, Any], floats: FloatArray | None = None, most_bytes: int = MOST_BYTES
) -> None:
    """Send one frame. Raises ``OSError`` where nobody takes it, ``MemoryStoreError`` where it is too large."""
    _send(to, json.dumps(message).encode(), b"" if floats is None else floats.astype(_FLOAT).tobytes(), most_bytes)


def send_items(to: socket.socket, items: Iterable[Item]) -> None:
    """Send an answer item by item, in frames of about 1 MiB, so that neither side holds all of a long one."""
    texts: list[str] = []
    floats: list[bytes] = []
    size = 0
    for item, vector in items:
        texts.append(json.dumps(item))
        if vector is not None:
            floats.append(vector.astype(_FLOAT).tobytes())
        size += len(texts[-1]) + (len(floats[-1]) if floats else 0)
        if size >= _PIECE_BYTES:
            _send(to, _joined(texts), b"".join(floats), MOST_BYTES)
            texts, floats, size = [], [], 0
    if texts:
        _send(to, _joined(texts), b"".join(floats), MOST_BYTES)
    send(to, {"end": True})


def _joined(texts: Sequence[str]) -> bytes:
    return ('{"items": [' + ",".join(texts) + "]}").encode()


def _send(to: socket.socket, text: bytes, floats: bytes, most_bytes: int) -> None:
    if max(len(text), len(floats)) > most_bytes:
        raise MemoryStoreError(f"a message of {len(text)} + {len(floats)} bytes", f"at most {most_bytes} each")
    to.sendall(_HEAD.pack(len(text), len(floats)) + text + floats)


def receive(sender: socket.socket) -> tuple[dict[str, Any], FloatArray]:
    """One frame: its message, and its floats ``[n]``. Raises ``WireError``, and ``OSError`` where nothing comes."""
    return _received(MOST_BYTES, lambda size: _exactly(sender, size))


def receive_question(guest: socket.socket, within_s: float) -> tuple[dict[str, Any], FloatArray]:
    """As ``receive``, but a small frame, all of which has to come in time. Raises ``TimeoutError`` if it doesn't."""
    deadline = time.monotonic() + within_s

    def exactly(size: int) -> bytes:
        return _exactly(guest, size, deadline)

    return _received(MOST_ASKED_BYTES, exactly)


def _received(most_bytes: int, exactly: Callable[[int], bytes]) -> tuple[dict[str, Any], FloatArray]:
    text_bytes, float_bytes = _HEAD.unpack(exactly(_HEAD.size))
    if max(text_bytes, float_bytes) > most_bytes or float_bytes % _FLOAT.itemsize:
        raise WireError(f"a frame of {text_bytes} + {float_bytes} bytes")
    try:
        message = json.loads(exactly(text_bytes))
    except ValueError as error:
        raise WireError("a frame that is not JSON") from error
    if not isinstance(message, dict):
        raise WireError("a frame without a message")
    return message, np.frombuffer(exactly(float_bytes), _FLOAT).astype(np.float32)


def _exactly(sender: socket.socket, size: int, deadline: float | None = None) -> bytes:
    parts: list[bytes] = []
    while size:
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("no whole frame in time")
            sender.settimeout(left_s)
        part = sender.recv(min(size, _PIECE_BYTES))
        if not part:
            raise WireError("the end of the connection within a frame")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def answered(sender: socket.socket) -> Iterator[tuple[list[Any], FloatArray]]:
    """The items of an answer, frame by frame, each with its floats; raises the error that was met on the other side."""
    while True:
        message, floats = receive(sender)
        if "error" in message:
            raise _error(message["error"])
        if "end" in message:
            return
        if not isinstance(message.get("items"), list):
            raise WireError("an answer without items")
        yield message["items"], floats


def error_message(error: Exception) -> dict[str, Any]:
    """An error as it is sent: an ``EarshotError`` or ``ValueError`` arrives as what it was, all else as a fault."""
    if isinstance(error, EarshotError):
        return {"error": [type(error).__name__, error.found, error.expected, error.action]}
    if isinstance(error, ValueError):
        return {"error": ["ValueError", str(error), "", ""]}
    return {"error": ["MemoryStoreError", f"{type(error).__name__} in the process asked: {error}", "", "try again"]}


def _error(sent: Sequence[str]) -> Exception:
    name, *parts = map(str, sent)
    if name == "ValueError":
        return ValueError(parts[0])
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, EarshotError)):
        kind = MemoryStoreError
    return kind(*parts)


def filter_message(where: Filter | None) -> list[list[Any]]:
    """A filter as it is sent; it must have passed ``check_filter``."""
    clauses = where.clauses if where else ()
    return [[c.field, c.op, c.value if isinstance(c.value, str | int | float) else list(c.value)] for c in clauses]


def filter_of(message: Sequence[Sequence[Any]]) -> Filter:
    """The filter that was sent; the memory that is asked checks it."""
    return Filter(tuple(Clause(str(field), op, value) for field, op, value in message))
