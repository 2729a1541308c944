"""A library on a Qdrant server: many machines fill and ask it, each with a ledger of its own."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import platformdirs

from earshot.keep import Tell, bare_space, told_in
from earshot.lock import LibraryLock, holder_of
from earshot.places import LEDGER, make_folder, no_library
from earshot.served_spaces import ServedSpaces
from engine.errors import LibraryBusyError, SpaceMismatchError
from engine.memory.base import CAPTION_FIELDS, Memory
from engine.memory.captions import CaptionMemory
from engine.memory.server import ServerMemory
from engine.memory.server_options import ServerAddress, ServerOptions
from engine.types import Clause, Filter, Space
from indexer.holding import Holding
from indexer.ledger import Totals

_INDEXER = "indexer"
#: The id of a machine that only searches; no point is held by it.
_NOBODY = "-"
_POLL_S = 0.1
#: The length of all sounds is summed over this many of them, and estimated from these where there are more.
_SUMMED = 10_000


class ServedKeep:
    """A server's URL; the ledger, and the id by which the server knows this indexer, lie in the user's data folder."""

    def __init__(self, url: str) -> None:
        """Raises ``LibraryError`` for a URL, or options in the environment, without meaning."""
        self._address = ServerAddress.parse(url)
        self._options = ServerOptions.from_environment()
        self._door = threading.Lock()
        self._server: ServerMemory | None = None
        self._captions: ServerMemory | None = None
        # Without the scheme: the same server, whichever way it is asked. Without the key: that may change.
        where = quote(self._address.url.partition("://")[2], safe="")
        self.folder = Path(platformdirs.user_data_dir("earshot")) / "served" / where

        self.spaces = ServedSpaces(self._address, self._options, self.folder, self._indexer)

    @property
    def name(self) -> str:
        """See ``Keep.name``."""
        return self._address.url

    @property
    def memory(self) -> str:
        """See ``Keep.memory``."""
        return f"Qdrant server at {self._address}"

    def exists(self) -> bool:
        """See ``Keep.exists``; where this machine knows nothing of it, the server is asked."""
        return (self.folder / LEDGER).is_file() or self.known_space() is not None

    def make(self) -> None:
        """See ``Keep.make``."""
        make_folder(self.folder)

    def known_space(self) -> tuple[str, int] | None:
        """See ``Keep.known_space``."""
        return self._asked().known_space()

    def totals(self) -> Totals | None:
        """See ``Keep.totals``: sounds, windows and seconds of all indexers."""
        server = self._asked()
        space = server.known_space()
        if space is None:
            return Totals(0, 0, 0, 0.0)
        server.ensure_space(*space)
        first = Filter((Clause("window", "=", 0),))
        sounds = server.count(first)
        lengths_s = [float(r.payload.get("duration_s", 0.0)) for r in islice(server.scroll(first), _SUMMED)]
        # Ids are hashes: the first ones by id are as good as any.
        audio_s = sum(lengths_s) * max(1.0, sounds / max(1, len(lengths_s)))
        return Totals(sounds, 0, server.count(), audio_s)

    @contextmanager
    def reading(self, space: Space, tidy: Callable[[Memory], None]) -> Iterator[Memory]:
        """See ``Keep.reading``. Nothing is tidied, which is for whoever writes."""
        if self.known_space() is None:
            raise no_library(self.name)
        yield self._held(space, self._known_indexer() or _NOBODY, shared=LibraryLock.is_taken(self.folder))

    @contextmanager
    def writing(
        self, space: Space, tidy: Callable[[Memory], None], wait_s: float, on_wait: Callable[[str], None]
    ) -> Iterator[Memory]:
        """See ``Keep.writing``: one process of this machine at a time, because of the ledger, and many machines."""
        self.make()
        lock = self._lock(wait_s, on_wait)
        try:
            lock.say("indexing", None)
            memory = self._held(space, self._indexer(), shared=False)
            tidy(memory)
            yield memory
        finally:
            self._asked().end_bulk()
            lock.release()

    @contextmanager
    def recalling(self, space: Space | None = None) -> Iterator[CaptionMemory | None]:
        """See ``Keep.recalling``."""
        server = self._asked_for_captions()
        known = server.known_space()
        if known is None:
            yield None
            return
        space = told_in(space or bare_space(*known), known)
        server.ensure_space(space.space_id, space.dim)
        yield CaptionMemory(server, space.space_id)

    @contextmanager
    def remembering(self, space: Space, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[CaptionMemory]:
        """See ``Keep.remembering``. The ids say what a caption is, so any number may write at once: nobody waits."""
        server = self._asked_for_captions()
        server.ensure_space(space.space_id, space.dim)
        try:
            yield CaptionMemory(server, space.space_id)
        finally:
            server.end_bulk()

    def retell(self, space: Space, tell: Tell, wait_s: float, on_wait: Callable[[str], None]) -> None:
        """See ``Keep.retell``."""
        old = self._asked_for_captions()
        known = old.known_space()
        if known in (None, (space.space_id, space.dim)):
            return
        assert known is not None
        old.ensure_space(*known)
        with self.spaces.captions(space) as new:
            tell(CaptionMemory(old, known[0]), CaptionMemory(new, space.space_id))
        with self._door:
            old.close()
            self._captions = None

    def close(self) -> None:
        """See ``Keep.close``."""
        with self._door:
            for server in (self._server, self._captions):
                if server is not None:
                    server.close()
            self._server = self._captions = None

    def _asked_for_captions(self) -> ServerMemory:
        with self._door:
            if self._captions is None:
                self._captions = ServerMemory(self._address.url, self._options, "captions", fields=CAPTION_FIELDS)
            return self._captions

    def _asked(self) -> ServerMemory:
        with self._door:
            if self._server is None:
                self._server = ServerMemory(self._address.url, self._options)
            return self._server

    def _held(self, space: Space, indexer: str, shared: bool) -> Memory:
        server = self._asked()
        try:
            server.ensure_space(space.space_id, space.dim)
        except SpaceMismatchError:
            self._forget_server()  # which may have been switched since it was asked first
            server = self._asked()
            server.ensure_space(space.space_id, space.dim)
        return Holding(server, indexer, shared)

    def _forget_server(self) -> None:
        with self._door:
            server, self._server = self._server, None
        if server is not None:
            server.close()

    def _lock(self, wait_s: float, on_wait: Callable[[str], None]) -> LibraryLock:
        deadline, told = time.monotonic() + wait_s, False
        while (lock := LibraryLock.take(self.folder)) is None:
            holder = str(holder_of(self.folder) or "another process")
            if time.monotonic() >= deadline:
                raise LibraryBusyError(
                    f"our ledger of {self.name} held by {holder}", "it free", "wait for it, or stop it"
                )
            if not told:
                on_wait(f"waiting for {holder}, which writes to {self.name}")
                told = True
            time.sleep(_POLL_S)
        return lock

    def _indexer(self) -> str:
        """The id by which points on the server are known as ours; made once, whoever comes first.

        It lies beside the ledger, not in it, so that it survives a ledger that is lost or copied.
        """
        path = self.folder / _INDEXER
        known = self._known_indexer()
        if known is None:
            mine = path.with_name(f"{_INDEXER}.{os.getpid()}.{threading.get_ident()}")
            host = "".join(letter for letter in platform.node() if letter.isalnum() or letter in "-.")
            mine.write_text(f"{host}-{uuid.uuid4().hex[:12]}", encoding="ascii", errors="replace")
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)  # whole, or not at all
            mine.unlink()
            known = path.read_text(encoding="ascii").strip()
        return known

    def _known_indexer(self) -> str | None:
        """That id, if it was ever made."""
        try:
            return (self.folder / _INDEXER).read_text(encoding="ascii").strip()
        except (FileNotFoundError, NotADirectoryError):
            return None
