"""What tests of libraries on a server share: the server's stub, and machines to sit at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine.memory.stub_qdrant import Stub, stub


@pytest.fixture
def qdrant() -> Iterator[Stub]:
    """A server that is empty."""
    with stub() as running:
        yield running


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Sit down at another machine: one with a user-data folder of its own. The first is ``one``."""
    monkeypatch.setattr("engine.memory.server_link._pause", lambda state: 0.02)
    monkeypatch.setattr("engine.memory.server._POLL_S", 0.001)
    monkeypatch.delenv("EARSHOT_QDRANT_API_KEY", raising=False)

    def sit_at(name: str) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / name))

    sit_at("one")
    return sit_at
