"""The bytes of a sound, in a file of its own or within an archive, and the engine's way of hearing them."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from engine.audio import open_clip, regular
from engine.errors import AudioError
from engine.types import Clip, FloatArray

#: The first byte and how many: where a sound lies in its file. None: it is the file.
Span: TypeAlias = tuple[int, int] | None
_CHUNK_BYTES = 1 << 20


def content_sha256(path: Path, span: Span) -> str:
    """The sha256 of the sound's bytes, in hex. Raises ``AudioError``."""
    found = hashlib.sha256()
    for chunk in _chunks(path, span):
        found.update(chunk)
    return found.hexdigest()


def open_sound(path: Path, span: Span, suffix: str, sample_rate_hz: int) -> Clip:
    """As ``engine.audio.open_clip``; of a sound within an archive, through a temporary file. Raises ``AudioError``."""
    if span is None:
        return open_clip(path, sample_rate_hz)
    copy = tempfile.NamedTemporaryFile(suffix=suffix)  # noqa: SIM115 - closed, and gone, when the blocks are read
    try:
        copy.writelines(_chunks(path, span))
        copy.flush()
        clip = open_clip(Path(copy.name), sample_rate_hz)
    except BaseException:
        copy.close()
        raise

    def blocks() -> Iterator[FloatArray]:
        with copy:
            yield from clip.blocks

    return replace(clip, blocks=blocks())


def _chunks(path: Path, span: Span) -> Iterator[bytes]:
    first, left = span or (0, sys.maxsize)
    try:
        with regular(path) as stream:
            stream.seek(first)
            while left and (chunk := stream.read(min(left, _CHUNK_BYTES))):
                yield chunk
                left -= len(chunk)
    except OSError as error:
        raise AudioError(
            error.strerror or str(error), "a readable file", "check the path and its permissions"
        ) from error
