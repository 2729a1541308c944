"""What an export can't go on from; apart, as a download needs no torch."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import BundleError


class SourceError(BundleError):
    """A checkpoint that can't be read."""


@contextmanager
def with_room(folder: Path | str, kept: str) -> Iterator[None]:
    """Say so where the disk of ``folder`` is full, and what is ``kept`` of what was done. Raises ``BundleError``."""
    try:
        yield
    except Exception as error:
        # Tokenizers raise bare Exception, with the system's words.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and "No space left on device" not in str(error):
            raise
        raise BundleError(
            f"no space left in {folder}", "room for the model and its bundle", f"make room: {kept}"
        ) from error
