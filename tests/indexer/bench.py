"""A library's parts, laid open, for the tests of the writing path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.fakes import FakeEncoders
from engine.memory.base import Memory
from engine.memory.exact import ExactMemory
from indexer.ledger import Ledger
from indexer.pipeline import IndexOptions, index
from indexer.report import IndexReport, Progress
from tests.sounds import tone, write_sound

RATE_HZ = 8000


class Bench:
    """An exact memory, fake encoders and a folder of sounds."""

    def __init__(self, folder: Path) -> None:
        self.sounds = folder / "sounds"
        self.sounds.mkdir()
        self.encoders = FakeEncoders()
        self.memory: Memory = ExactMemory()
        self.memory.ensure_space(self.encoders.space.space_id, self.encoders.space.dim)
        self.ledger = Ledger(folder / "ledger.sqlite")

    def write(self, name: str, seconds: float = 2.0, hz: float = 500.0) -> Path:
        return write_sound(self.sounds / name, tone(seconds, rate_hz=RATE_HZ, hz=hz), rate_hz=RATE_HZ)

    def index(self, on_progress: Callable[[Progress], None] = lambda _: None, **options: bool | int) -> IndexReport:
        wanted = IndexOptions(**options)  # type: ignore[arg-type]
        return index([self.sounds], self.encoders, self.memory, self.ledger, wanted, on_progress)

    def paths(self) -> list[list[str]]:
        """The distinct lists of file names that the memory's points carry."""
        return sorted({tuple(Path(p).name for p in r.payload["paths"]) for r in self.memory.scroll()})

    def windows(self) -> dict[str, tuple[object, ...]]:
        keys = ("sha256", "window", "start_s", "end_s", "duration_s")
        return {r.id: tuple(r.payload[key] for key in keys) for r in self.memory.scroll()}
