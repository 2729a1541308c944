"""A memory of which every question goes over the socket: for the suite that all memories pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from engine.memory.edge import EdgeMemory
from engine.memory.guest import GuestMemory
from engine.memory.host import Host

ASKED = ("search", "search_many", "search_words", "scroll", "count")


class AskedMemory:
    """Writes as the holder, reads as a guest of it."""

    def __init__(self, folder: Path) -> None:
        self._edge = EdgeMemory(folder)
        self._host: Host | None = None
        self._guest: GuestMemory | None = None

    def ensure_space(self, space_id: str, dim: int) -> None:
        self._edge.ensure_space(space_id, dim)
        if self._host is None:
            self._host = Host(self._edge.folder, 0o600, lambda: False)
            self._host.serve(self._edge, (space_id, dim))
            self._guest = GuestMemory(self._edge.folder / self._host.address)
            self._guest.ensure_space(space_id, dim)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest if self._guest and name in ASKED else self._edge, name)

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
        self._guest = None
        self._edge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
