"""Where a library is kept: the folder of its ledger, and how its memory is opened to read and to write."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeAlias

from earshot.places import CAPTIONS, LEDGER, MEMORY, default_folder, expanded, make_folder
from earshot.sharing import SharedReader, Sharing
from earshot.spaces import FolderSpaces, Spaces
from engine.errors import LibraryError, SpaceMismatchError
from engine.memory.base import CAPTION_FIELDS, Memory
from engine.memory.captions import CaptionMemory
from engine.memory.edge import EdgeMemory
from engine.memory.server_options import is_url
from engine.types import Space
from indexer.ledger import Totals

#: Another scheme than that of a URL that ``is_url`` knows, or a host with a port.
_ADDRESS = re.compile(r"\s*(\w+://.*|([\w.-]+|\[[\da-fA-F:.]+\]):\d+(/.*)?)", re.DOTALL)


#: Fills the captions of a new space, its second argument, from those of the old one.
Tell: TypeAlias = Callable[[CaptionMemory, CaptionMemory], None]


class Keep(Protocol):
    """Where one library is kept. Its methods may be called from several threads.

    ``tidy`` removes from a memory what killed runs left there; a keep calls it when it knows that nobody else is
    writing.
    """

    @property
    def name(self) -> str:
        """What the user calls it: its folder, or its URL without secrets."""

    @property
    def folder(self) -> Path:
        """Where its ledger lies, on this machine."""

    @property
    def memory(self) -> str:
        """Which memory it has, and where, for ``status``."""

    @property
    def spaces(self) -> Spaces:
        """Its spaces beside the one that answers."""

    def exists(self) -> bool:
        """Whether there is a library here; of one on a server this machine may know without asking."""

    def make(self) -> None:
        """Make the folder of its ledger. Raises ``LibraryError``."""

    def known_space(self) -> tuple[str, int] | None:
        """The space its memory was made in, and the numbers of a vector; None where there is no memory yet."""

    def totals(self) -> Totals | None:
        """What its memory holds, if others than this machine's ledger fill it too; ``failed`` is 0 then."""

    def reading(self, space: Space, tidy: Callable[[Memory], None]) -> AbstractContextManager[Memory]:
        """Its memory, to be read only, for the time inside; what is opened for that may stay open until ``close``.

        Raises ``LibraryBusyError``, ``SpaceMismatchError`` and ``MemoryStoreError``.
        """

    def writing(
        self, space: Space, tidy: Callable[[Memory], None], wait_s: float, on_wait: Callable[[str], None]
    ) -> AbstractContextManager[Memory]:
        """Its memory, to be written, for the time inside.

        Where another process is writing, it waits for ``wait_s`` and tells ``on_wait`` once for whom. Raises as
        ``reading`` does.
        """

    def recalling(self, space: Space | None = None) -> AbstractContextManager[CaptionMemory | None]:
        """The captions it remembers, to be read only, for the time inside; None where none were ever remembered.

        Without a ``space`` those of whichever there is. Raises as ``reading`` does, so where they are those of another
        space: whoever switched the library was stopped, or is just saying them in the new one.
        """

    def remembering(
        self, space: Space, wait_s: float, on_wait: Callable[[str], None]
    ) -> AbstractContextManager[CaptionMemory]:
        """The captions it remembers, to be written, for the time inside; else as ``writing``."""

    def retell(self, space: Space, tell: Tell, wait_s: float, on_wait: Callable[[str], None]) -> None:
        """Where the captions are those of another space: fill those of this one with ``tell``, and let these answer."""

    def close(self) -> None:
        """Let go of all that is open. Twice is fine."""


def keep_at(library: str | Path | None) -> Keep:
    """The keep of the library that the user means: a server's URL, or a folder; default: ``default_folder()``.

    Raises ``LibraryError`` for what looks like another address of a server, which would become a folder of that name.
    """
    if is_url(library):
        from earshot.served import ServedKeep

        return ServedKeep(str(library))
    if isinstance(library, str) and _ADDRESS.fullmatch(library) and not expanded(library).exists():
        raise LibraryError(
            f"{library!r}, which looks like a server's address",
            "http://HOST:PORT, https://HOST:PORT or a folder",
            "put http:// before it, or ./ if it is a folder",
        )
    return FolderKeep(expanded(library) if library is not None else default_folder())


class FolderKeep:
    """A folder with everything: the ledger, the lock, and a Qdrant Edge memory.

    Who takes the lock holds the memory, and answers all others on a local socket (``Sharing``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spaces = FolderSpaces(folder)
        self._sharing = Sharing(folder, self._memory_folder, prepare=self.spaces.settle)
        # A lock and a socket of its own: what is remembered is held by whoever asks for it, whoever holds the sounds.
        self._captions = Sharing(self._captions_folder, self._captions_folder, CAPTION_FIELDS)

    @property
    def name(self) -> str:
        """See ``Keep.name``."""
        return str(self.folder)

    @property
    def memory(self) -> str:
        """See ``Keep.memory``."""
        return f"Qdrant Edge in {self._memory_folder}"

    @property
    def _memory_folder(self) -> Path:
        return self.folder / MEMORY

    @property
    def _captions_folder(self) -> Path:
        return self.folder / CAPTIONS

    def exists(self) -> bool:
        """See ``Keep.exists``. Raises ``LibraryError`` for a folder that may not be looked into."""
        try:
            return (self.folder / LEDGER).is_file()
        except OSError as error:
            raise LibraryError(
                f"{self.folder}: {error.strerror}", "a folder that we may read", "check its permissions"
            ) from error

    def make(self) -> None:
        """See ``Keep.make``."""
        make_folder(self.folder)

    def known_space(self) -> tuple[str, int] | None:
        """See ``Keep.known_space``."""
        return self.spaces.known()

    def totals(self) -> Totals | None:
        """See ``Keep.totals``: all of it is in the ledger."""
        return None

    @contextmanager
    def reading(self, space: Space, tidy: Callable[[Memory], None]) -> Iterator[Memory]:
        """See ``Keep.reading``."""
        yield SharedReader(self._sharing, space, tidy)

    @contextmanager
    def writing(
        self, space: Space, tidy: Callable[[Memory], None], wait_s: float, on_wait: Callable[[str], None]
    ) -> Iterator[Memory]:
        """See ``Keep.writing``."""
        with self._sharing.writing(space, tidy, wait_s, on_wait) as memory:
            yield memory

    @contextmanager
    def recalling(self, space: Space | None = None) -> Iterator[CaptionMemory | None]:
        """See ``Keep.recalling``."""
        known = EdgeMemory(self._captions_folder).known_space()
        if known is None:
            yield None
            return
        space = told_in(space or bare_space(*known), known)
        yield CaptionMemory(SharedReader(self._captions, space, leave), space.space_id)

    @contextmanager
    def remembering(self, space: Space, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[CaptionMemory]:
        """See ``Keep.remembering``."""
        make_folder(self._captions_folder)
        with self._captions.writing(space, leave, wait_s, on_wait) as memory:
            yield CaptionMemory(memory, space.space_id)

    def retell(self, space: Space, tell: Tell, wait_s: float, on_wait: Callable[[str], None]) -> None:
        """See ``Keep.retell``. ``current`` of the folder is the moment; a kill before it leaves the old captions."""
        folder = self._captions_folder
        known = EdgeMemory(folder).known_space()
        if known in (None, (space.space_id, space.dim)):
            return
        beside = folder / "new"
        if EdgeMemory(beside).known_space() not in (None, (space.space_id, space.dim)):
            shutil.rmtree(beside)  # of a switch that was undone before its captions were said
        with self._captions.writing(bare_space(*known), leave, wait_s, on_wait) as old:
            with EdgeMemory(beside, CAPTION_FIELDS) as new:
                new.ensure_space(space.space_id, space.dim)
                tell(CaptionMemory(old, known[0]), CaptionMemory(new, space.space_id))
                new.optimise()
            old.close()
            EdgeMemory(folder).take(beside)
        self._captions.close()

    def close(self) -> None:
        """See ``Keep.close``."""
        try:
            self._sharing.close()
        finally:
            self._captions.close()


def bare_space(space_id: str, dim: int) -> Space:
    """As much of a space as a keep wants to know."""
    return Space(space_id, dim, sample_rate_hz=0, window_s=0.0, hop_s=0.0, pad="repeat")


def told_in(space: Space, known: tuple[str, int]) -> Space:
    """The space asked for. Raises ``SpaceMismatchError`` if captions are ``known`` to be those of another one."""
    if known != (space.space_id, space.dim):
        raise SpaceMismatchError(
            f"captions remembered in space {known[0]}",
            f"{space.space_id}, in which the library answers",
            "`earshot remember` and `earshot index --caption` say them again in this space, unless that is just done",
        )
    return space


def leave(memory: Memory) -> None:
    """Tidies nothing."""
