"""What a run of ``index`` did, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class IndexReport:
    """Counts of one run; ``to_dict`` is the public JSON form.

    ``indexed`` counts files added or updated, ``copies`` those among them whose content was known already (moved,
    renamed or copied files), ``damaged`` are those heard though not whole, ``skipped_failed`` counts the skipped ones
    that failed in an earlier run, ``lost`` contents that the memory had lost before this run, ``captioned`` contents
    that were put into words, ``captioned_otherwise`` those whose captions stay though they are another captioner's, or
    of another language or memory, ``windows`` and ``audio_s`` what was encoded, ``stages_s`` busy seconds summed over
    threads. ``refused`` says why nothing was forgotten (``pruned``) though that was asked for.
    """

    indexed: int = 0
    copies: int = 0
    skipped: int = 0
    skipped_failed: int = 0
    pruned: int = 0
    refused: str | None = None
    lost: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    windows: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    stages_s: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False
    captioned: int = 0
    captioned_otherwise: int = 0
    done_bytes: int = 0

    @property
    def done(self) -> int:
        """Files finished, well or not."""
        return self.indexed + len(self.failed)

    @property
    def is_empty(self) -> bool:
        """Whether there was no sound, well or not, where the run looked, and it looked everywhere."""
        return not (self.done or self.skipped or self.interrupted)

    def to_dict(self) -> dict[str, Any]:
        """The public JSON form."""
        return {
            "indexed": self.indexed,
            "copies": self.copies,
            "skipped": self.skipped,
            "skipped_failed": self.skipped_failed,
            "pruned": self.pruned,
            "refused": self.refused,
            "lost": self.lost,
            "captioned": self.captioned,
            "captioned_otherwise": self.captioned_otherwise,
            "failed": [{"path": path, "reason": reason} for path, reason in self.failed],
            "damaged": [{"path": path, "remark": remark} for path, remark in self.damaged],
            "windows": self.windows,
            "audio_s": round(self.audio_s, 3),
            "wall_s": round(self.wall_s, 3),
            "stages_s": self.stages_s,
            "left_out": self.left_out,
            "interrupted": self.interrupted,
        }


@dataclass(slots=True)
class Progress:
    """A live view of a run, to be drawn by whoever called it."""

    report: IndexReport
    started: float
    to_do_files: int = 0
    to_do_bytes: int = 0
    scanned: bool = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.started

    @property
    def files_per_s(self) -> float:
        """Files finished a second."""
        return self.report.done / max(self.elapsed_s, 1e-6)

    @property
    def audio_hours_per_hour(self) -> float:
        """Hours of sound heard in an hour."""
        return self.report.audio_s / max(self.elapsed_s, 1e-6)

    @property
    def eta_s(self) -> float | None:
        """Seconds to go, by bytes; None until the scan is over and something is done."""
        if not self.scanned or not self.report.done_bytes:
            return None
        return self.elapsed_s * (self.to_do_bytes - self.report.done_bytes) / self.report.done_bytes
