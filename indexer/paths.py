"""Paths as a library keeps them: as text that any store accepts, and back to the very file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: Before the name of a file that is not UTF-8: what follows is one Latin-1 letter for each of its bytes.
BYTES_MARK = "bytes:"
#: No mounting and no permission will bring these back; any other error may pass.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def path_text(path: Path) -> str:
    """A path as valid Unicode; one that is not UTF-8 is marked and written byte for byte. See ``text_path``."""
    text = os.fspath(path)
    is_odd = not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)
    return BYTES_MARK + os.fsencode(text).decode("latin-1") if is_odd or text.startswith(BYTES_MARK) else text


def text_path(text: str) -> Path:
    """The path that ``path_text`` made this text of: what ``open`` wants."""
    if not text.startswith(BYTES_MARK):
        return Path(text)
    return Path(os.fsdecode(text.removeprefix(BYTES_MARK).encode("latin-1")))


def is_gone(path: Path) -> bool:
    """Whether there is no such file, a link to nothing included; False where that can't be known just now."""
    try:
        path.stat()
    except OSError as error:
        return error.errno in _GONE
    return False
