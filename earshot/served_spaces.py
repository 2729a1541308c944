"""The spaces of a library on a server: collections behind aliases, and on each machine a ledger for each.

``sounds`` answers, ``sounds-filling`` is being filled, ``sounds-previous`` answered before. A switch renames all in one
step; then each machine's ledger follows, that of the machine that switches at once, the others' when they next look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

from earshot.places import LEDGER
from earshot.spaces import BUNDLE, PREVIOUS, SPACE, Filling, FolderSpaces, locked
from engine.errors import LibraryError
from engine.memory.base import CAPTION_FIELDS, HOLDERS, Memory
from engine.memory.server import ServerMemory
from engine.memory.server_aliases import collections, point, remove
from engine.memory.server_collection import Collection
from engine.memory.server_link import ServerLink
from engine.memory.server_options import ServerAddress, ServerOptions
from engine.types import Clause, Filter, Space
from indexer.holding import Holding
from indexer.ledger import Ledger
from indexer.payload import of_contents
from indexer.repair import rebuild

ANSWERING, FILLING, BEFORE = "sounds", "sounds-filling", "sounds-previous"
CAPTIONS, CAPTIONS_FILLING = "captions", "captions-filling"
_AT_ONCE = 256


class ServedSpaces:
    """The ``Spaces`` of the library at a server's address; ``folder`` is this machine's, ``indexer`` gives its id."""

    def __init__(
        self, address: ServerAddress, options: ServerOptions, folder: Path, indexer: Callable[[], str]
    ) -> None:
        self._address, self._options, self._indexer = address, options, indexer
        self._ledgers = FolderSpaces(folder)

    @contextmanager
    def filling(self, space: Space, wait_s: float, on_wait: Callable[[str], None]) -> Iterator[Filling]:
        """See ``Spaces.filling``. Other machines may fill it at the same time."""
        folder = self._ledgers.folder_of(space.space_id)
        name = self._alias(space)
        with (
            locked(folder, space.space_id, wait_s, on_wait),
            closing(Ledger(folder / LEDGER)) as ledger,
            ServerMemory(self._address.url, self._options, name) as server,
        ):
            server.ensure_space(space.space_id, space.dim)
            memory = Holding(server, self._indexer())
            if ledger.is_blank and memory.count():
                rebuild(memory, ledger, space.space_id)
            yield Filling(space.space_id, memory, ledger)

    def _alias(self, space: Space) -> str:
        """Where a space beside lies. Raises ``LibraryError`` where another one is being filled."""
        known = self._known()
        if BEFORE in known and known[BEFORE].space_id == space.space_id:
            return BEFORE
        if FILLING in known and known[FILLING].space_id != space.space_id:
            raise LibraryError(
                f"{known[FILLING].space_id} being filled at {self._address}, perhaps by another machine",
                f"no other than {space.space_id}",
                "finish that first, or remove it with `earshot library forget-old`",
            )
        return FILLING

    def beside(self, space_id: str) -> tuple[str, int] | None:
        """See ``Spaces.beside``."""
        return next(((c.space_id, c.dim) for c in self._beside() if c.space_id == space_id), None)

    def others(self) -> Iterator[str]:
        """See ``Spaces.others``."""
        return iter(sorted(collection.space_id for collection in self._beside()))

    def room(self) -> None:
        """See ``Spaces.room``: a server does not say."""

    def leave(self, space: Space, ledger: Ledger) -> None:
        """See ``Spaces.leave``."""
        self._ledgers.leave(space, ledger)

    def lacking(self, filled: Filling) -> str | None:
        """See ``Spaces.lacking``: sounds that other machines hold, and that these have not heard anew yet."""
        lacks, machines = 0, set[str]()
        first = Filter((Clause("window", "=", 0), Clause(HOLDERS, "!=", self._indexer())))
        with (
            ServerMemory(self._address.url, self._options) as old,
            ServerMemory(self._address.url, self._options, self._alias_of(filled.space_id)) as new,
        ):
            for server in (old, new):
                if known := server.known_space():
                    server.ensure_space(*known)
            theirs = old.scroll(first)
            while some := {str(r.payload["sha256"]): r.payload.get(HOLDERS, []) for r in islice(theirs, _AT_ONCE)}:
                where = of_contents(*some).also(Clause("window", "=", 0))
                missing = some.keys() - {str(record.payload["sha256"]) for record in new.scroll(where)}
                lacks += len(missing)
                machines.update(holder for sha256 in missing for holder in some[sha256])
        if not lacks:
            return None
        return str(
            LibraryError(
                f"{lacks} sounds of {', '.join(sorted(machines))} not heard anew yet",
                "all of them in the new space",
                "run the same there: the last machine switches. If they are gone for good, add --prune-anyway",
            )
        )

    def hand_over(self, filled: Filling) -> None:
        """See ``Spaces.hand_over``."""
        known, name = self._known(), self._alias_of(filled.space_id)
        wanted: dict[str, str | None] = {ANSWERING: known[name].name, BEFORE: known[ANSWERING].name}
        if name == FILLING:
            wanted[FILLING] = None
        with self._link() as link:
            point(link, wanted)
            stale = known.get(BEFORE)
            if stale is not None and stale.name not in wanted.values():
                remove(link, stale.name)

    @contextmanager
    def captions(self, space: Space) -> Iterator[Memory]:
        """Captions of another space than those that answer, to be filled inside; then they answer, alone."""
        with self._link() as link:
            known = collections(link, CAPTIONS, CAPTIONS_FILLING)
            stale = known.get(CAPTIONS_FILLING)
            if stale is not None and stale.space_id != space.space_id:
                remove(link, stale.name)
            with ServerMemory(self._address.url, self._options, CAPTIONS_FILLING, fields=CAPTION_FIELDS) as new:
                new.ensure_space(space.space_id, space.dim)
                yield new
            filled = collections(link, CAPTIONS_FILLING)[CAPTIONS_FILLING]
            point(link, {CAPTIONS: filled.name, CAPTIONS_FILLING: None})
            remove(link, known[CAPTIONS].name)

    def drop(self, space_id: str) -> None:
        """See ``Spaces.drop``."""
        self._ledgers.drop(space_id)
        for collection in self._beside():
            if collection.space_id == space_id:
                with self._link() as link:
                    remove(link, collection.name)

    def follow(self, ledger: Ledger) -> bool:
        """See ``Spaces.follow``: where another machine has switched, or we were killed before our ledger was."""
        known, current = self._known().get(ANSWERING), ledger.setting(SPACE)
        if known is None or current in (None, known.space_id):
            return False
        space = Space(str(current), 0, 0, 0.0, 0.0, "zero")
        self.leave(space, ledger)
        path = self._ledgers.folder_of(known.space_id) / LEDGER
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(Ledger(path)) as ours:  # a blank one where we never heard it: then the server says what is ours
            settings = {SPACE: known.space_id, BUNDLE: ours.setting(BUNDLE), PREVIOUS: current}
            ledger.become(ours, settings)
        return True

    def _alias_of(self, space_id: str) -> str:
        return next(alias for alias, one in self._known().items() if one.space_id == space_id and alias != ANSWERING)

    def _beside(self) -> list[Collection]:
        return [one for alias, one in self._known().items() if alias != ANSWERING]

    def _known(self) -> dict[str, Collection]:
        with self._link() as link:
            return collections(link, ANSWERING, FILLING, BEFORE)

    @contextmanager
    def _link(self) -> Iterator[ServerLink]:
        link = ServerLink(self._address, self._options)
        try:
            yield link
        finally:
            link.close()
