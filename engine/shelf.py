"""Bundles side by side in a folder, and what a killed command left among them.

Beside a bundle ``NAME`` there may be ``.NAME.new-*``, one that is being made by whoever holds that folder;
``.NAME.old``, the one before it, until the new one has its place; and ``.NAME.gone``, one that is being removed.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp


def tidy(place: Path, name: str | None = None) -> None:
    """Remove what nobody works on any more in ``place``, and put back a bundle whose place was left empty.

    Of one ``name``, where it is given: a folder that holds more than bundles may have names like these of its own.
    A place that can't be written to stays as it is.
    """
    which = "*" if name is None else glob.escape(name)
    with suppress(OSError):
        for left in place.glob(f".{which}.new-*"):
            if (held := hold_folder(left)) is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)
        for left in place.glob(f".{which}.gone"):
            shutil.rmtree(left, ignore_errors=True)
        for left in place.glob(f".{which}.old"):
            out = place / left.name.removeprefix(".").removesuffix(".old")
            if not any(place.glob(f".{glob.escape(out.name)}.new-*")):  # else its maker is between the two
                put_back(out)
                shutil.rmtree(left, ignore_errors=True)


def old(out: Path) -> Path:
    """Where a bundle is kept while another takes its place."""
    return out.with_name(f".{out.name}.old")


def put_back(out: Path) -> None:
    """Undo what was begun by one who was killed, or failed, between taking the old bundle away and putting the new."""
    if old(out).exists() and not out.exists():
        old(out).rename(out)


def remove(folder: Path) -> None:
    """Remove a bundle, which is gone at once: who is killed meanwhile leaves no half of it. Raises ``OSError``."""
    gone = folder.with_name(f".{folder.name}.gone")
    for left in (gone, old(folder)):
        shutil.rmtree(left, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def scratch(out: Path) -> Iterator[Path]:
    """A folder of one's own beside ``out``, which is gone afterwards; ``tidy`` leaves it alone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    begun = Path(mkdtemp(prefix=f".{out.name}.begun-", dir=out.parent))
    held = hold_folder(begun)
    made = begun.rename(begun.with_name(begun.name.replace(".begun-", ".new-")))  # held before anyone tidies it away
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if held is not None:
            os.close(held)


def hold_folder(folder: Path) -> int | None:
    """A file descriptor by which this process alone holds a folder; None where another does, or nobody can."""
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held
