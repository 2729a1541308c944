"""Where things live: the user's library, the bundles, the name of a ledger."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import platformdirs

from engine.errors import LibraryError

LEDGER = "ledger.sqlite"
#: Where a library in a folder keeps its vectors.
MEMORY = Path("memory") / "sounds"
#: Where it keeps the captions that are remembered.
CAPTIONS = Path("memory") / "captions"


def default_folder() -> Path:
    """The user's own library: ``library`` in the platform's user-data folder."""
    return Path(platformdirs.user_data_dir("earshot")) / "library"


def bundles_folder() -> Path:
    """Where pulled bundles are kept."""
    return Path(platformdirs.user_data_dir("earshot")) / "bundles"


def no_library(name: str) -> LibraryError:
    """What to say where ``name``, a folder or a URL, is no library."""
    return LibraryError(
        f"no library in {name}", "one", f"make it with `earshot index FOLDER --library {quote(name)}`, or name another"
    )


def make_folder(folder: Path) -> None:
    """Make the folder of a library. Raises ``LibraryError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LibraryError(f"{folder}: {error.strerror}", "a folder to write in", "choose another") from error


def expanded(path: str | Path) -> Path:
    """The path with a leading ``~`` replaced: whoever quotes it keeps the shell from doing so."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # nobody has that name: then it is a file's
        return Path(path)
