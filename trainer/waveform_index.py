"""``index.sqlite`` of a folder of decoded clips: which file has which content, and where each content lies."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.types import FloatArray
from trainer.examples import Example


@dataclass(frozen=True, slots=True)
class Waveform:
    """Where a content lies: its first sample in ``shard``, how many, and the scale of each of its steps."""

    sha256: str
    shard: str
    start: int
    samples: int
    scales: FloatArray


class Index:
    """Contents of files, and where contents lie. Any thread may enter some; one does at a time."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        self._db.executescript(
            """
            create table if not exists files (path blob, first integer, size integer, mtime_ns integer, sha256 text,
                primary key (path, first));
            create table if not exists clips (sha256 text primary key, shard text, start integer, samples integer,
                scales blob);
            """
        )
        self.known: set[str] = set()
        self.shards: set[str] = set()
        self._look()

    def _look(self) -> None:
        self.known = {sha for (sha,) in self._db.execute("select sha256 from clips")}
        self.shards = {shard for (shard,) in self._db.execute("select distinct shard from clips")}

    def forget_all_but(self, there: dict[str, int]) -> None:
        """Keep the clips of these shards, as far as their bytes reach."""
        ends = self._db.execute("select shard, max(start + samples) from clips group by shard").fetchall()
        gone = [(shard,) for shard, end in ends if there.get(shard, -1) < 2 * end]
        with self._db:
            self._db.executemany("delete from clips where shard = ?", gone)
        self._look()

    def sha256_of(self, example: Example, status: os.stat_result) -> str | None:
        """The content of a file that has not changed since it was hashed."""
        asked = (*_place(example), status.st_size, status.st_mtime_ns)
        sql = "select sha256 from files where path = ? and first = ? and size = ? and mtime_ns = ?"
        row = self._db.execute(sql, asked).fetchone()
        return None if row is None else str(row[0])

    def remember(self, found: Iterable[tuple[Example, os.stat_result, str]]) -> None:
        """Keep what files were found to hold."""
        rows = [(*_place(example), stat.st_size, stat.st_mtime_ns, sha) for example, stat, sha in found]
        with self._db:
            self._db.executemany("insert or replace into files values (?, ?, ?, ?, ?)", rows)

    def enter(self, waveforms: Sequence[Waveform]) -> None:
        """Keep where these lie, all or none."""
        rows = [(one.sha256, one.shard, one.start, one.samples, one.scales.tobytes()) for one in waveforms]
        with self._lock, self._db:
            self._db.executemany("insert or replace into clips values (?, ?, ?, ?, ?)", rows)

    def waveforms(self, wanted: set[str]) -> dict[str, Waveform]:
        """Where these contents lie, of those that are here."""
        rows = self._db.execute("select * from clips")
        return {
            sha: Waveform(sha, shard, start, samples, np.frombuffer(scales, np.float32))
            for sha, shard, start, samples, scales in rows
            if sha in wanted
        }

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _place(example: Example) -> tuple[bytes, int]:
    return os.fsencode(example.audio.absolute()), example.span[0] if example.span else -1
