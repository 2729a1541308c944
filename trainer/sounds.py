"""The bytes of a sound, in a file of its own or within an archive, and the engine's way of hearing them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, TypeAlias

from engine.audio import open_clip, regular
from engine.errors import AudioError
from engine.types import Clip, FloatArray

#: The first byte and how many: where a sound lies in its file. None: it is the file.
Span: TypeAlias = tuple[int, int] | None
_CHUNK_BYTES = 1 << 20


def content_sha256(path: Path, span: Span) -> str:
    """The sha256 of the sound's bytes, in hex. Raises ``AudioError``."""
    found = hashlib.sha256()
    with _bytes(path, span) as chunks:
        for chunk in chunks:
            found.update(chunk)
    return found.hexdigest()


def open_sound(path: Path, span: Span, suffix: str, sample_rate_hz: int) -> Clip:
    """As ``engine.audio.open_clip``; of a sound within an archive, through a temporary file. Raises ``AudioError``."""
    if span is None:
        return open_clip(path, sample_rate_hz)
    copy = tempfile.NamedTemporaryFile(suffix=suffix)  # noqa: SIM115 - closed, and gone, when the blocks are read
    try:
        with _bytes(path, span) as chunks:
            copy.writelines(chunks)
        copy.flush()
        clip = open_clip(Path(copy.name), sample_rate_hz)
    except BaseException:
        copy.close()
        raise

    def blocks() -> Iterator[FloatArray]:
        with copy:
            yield from clip.blocks

    return replace(clip, blocks=blocks())


@contextmanager
def _bytes(path: Path, span: Span) -> Iterator[Iterator[bytes]]:
    try:
        with regular(path) as stream:
            yield _chunks(stream, span)
    except OSError as error:
        raise AudioError(
            error.strerror or str(error), "a readable file", "check the path and its permissions"
        ) from error


def _chunks(stream: BinaryIO, span: Span) -> Iterator[bytes]:
    if span is not None:
        stream.seek(span[0])
    left = None if span is None else span[1]
    while left != 0 and (chunk := stream.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES))):
        yield chunk
        left = None if left is None else left - len(chunk)
