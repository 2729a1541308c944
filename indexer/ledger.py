"""The ledger: which file, which content, which state, which error. SQLite, one row a file and one a content.

Order of writing: a content is announced (``pending``), its vectors go to the memory, and only then it becomes
``indexed``. Whatever a kill leaves behind is therefore known here, and the next run completes or removes it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import LibraryError

#: Numbered migrations: entry n brings a ledger from version n to n + 1.
MIGRATIONS = (
    """
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE contents (
        sha256 TEXT PRIMARY KEY,
        state TEXT NOT NULL CHECK (state IN ('pending', 'indexed')),
        windows INTEGER NOT NULL DEFAULT 0,
        duration_s REAL NOT NULL DEFAULT 0
    );
    CREATE TABLE files (
        path BLOB PRIMARY KEY,
        size_bytes INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        sha256 TEXT REFERENCES contents (sha256),
        reason TEXT,
        CHECK ((sha256 IS NULL) != (reason IS NULL))
    ) WITHOUT ROWID;
    CREATE INDEX files_by_sha256 ON files (sha256);
    """,
)


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the ledger knows of one path: its content (``sha256``), or the ``reason`` why it could not be heard."""

    path: Path
    size_bytes: int
    mtime_ns: int
    sha256: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the library; each content counts once, however many copies of it there are."""

    files: int
    failed: int
    windows: int
    audio_s: float


class Ledger:
    """The ledger of one library; safe to use from several threads of one process."""

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises ``LibraryError`` if it is damaged or of a newer earshot."""
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._migrate(path)
        except sqlite3.Error as error:
            raise LibraryError(f"a ledger that can't be opened ({path}: {error})", "an SQLite file", "") from error

    def _migrate(self, path: Path) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise LibraryError(
                f"a ledger of version {version} in {path}", f"at most {len(MIGRATIONS)}", "update earshot: it is newer"
            )
        for number in range(version, len(MIGRATIONS)):
            self._db.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version={number + 1}; COMMIT;")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes durable together, or not at all."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def setting(self, key: str) -> Any:
        """A setting of the library, or None."""
        row = self._one("SELECT value FROM settings WHERE key = ?", key)
        return None if row is None else json.loads(row[0])

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a setting (any JSON value)."""
        self._write("INSERT OR REPLACE INTO settings VALUES (?, ?)", key, json.dumps(value))

    def file(self, path: Path) -> FileRow | None:
        """What is known of a path."""
        row = self._one(
            "SELECT path, size_bytes, mtime_ns, sha256, reason FROM files WHERE path = ?", os.fsencode(path)
        )
        return None if row is None else _file_row(row)

    def is_indexed(self, sha256: str) -> bool:
        """Whether all vectors of this content are in the memory."""
        row = self._one("SELECT state FROM contents WHERE sha256 = ?", sha256)
        return row is not None and row[0] == "indexed"

    def paths_of(self, sha256: str) -> list[Path]:
        """Every known path of a content, sorted."""
        rows = self._all("SELECT path FROM files WHERE sha256 = ? ORDER BY path", sha256)
        return [Path(os.fsdecode(row[0])) for row in rows]

    def announce(self, sha256: str) -> None:
        """Before the first vector of a content is written."""
        self._write("INSERT INTO contents (sha256, state) VALUES (?, 'pending') ON CONFLICT DO NOTHING", sha256)

    def complete(self, sha256: str, windows: int, duration_s: float) -> None:
        """After the last vector of a content is on disk."""
        self._write(
            "INSERT OR REPLACE INTO contents VALUES (?, 'indexed', ?, ?)",
            *(sha256, windows, duration_s),
        )

    def assign(self, path: Path, size_bytes: int, mtime_ns: int, sha256: str) -> None:
        """This path now holds this content."""
        self._write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, NULL)", os.fsencode(path), size_bytes, mtime_ns, sha256
        )

    def fail(self, path: Path, size_bytes: int, mtime_ns: int, reason: str) -> None:
        """This path could not be heard, and why."""
        self._write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, NULL, ?)", os.fsencode(path), size_bytes, mtime_ns, reason
        )

    def forget_path(self, path: Path) -> None:
        """This path is gone."""
        self._write("DELETE FROM files WHERE path = ?", os.fsencode(path))

    def orphans(self, limit: int) -> list[str]:
        """Contents that no path holds any more: their vectors are to be removed."""
        rows = self._all(
            "SELECT sha256 FROM contents AS c WHERE NOT EXISTS (SELECT 1 FROM files WHERE sha256 = c.sha256) LIMIT ?",
            limit,
        )
        return [row[0] for row in rows]

    def mark_pending(self, sha256s: Sequence[str]) -> None:
        """Before the vectors of these contents are removed."""
        for sha256 in sha256s:
            self._write("UPDATE contents SET state = 'pending' WHERE sha256 = ?", sha256)

    def drop_contents(self, sha256s: Sequence[str]) -> None:
        """After the vectors of these contents have been removed."""
        for sha256 in sha256s:
            self._write("DELETE FROM contents WHERE sha256 = ?", sha256)

    def files(self, failed: bool | None = None) -> Iterator[FileRow]:
        """Rows of all files, of the failed ones, or of the others; a page at a time, by path."""
        condition = {None: "1", True: "reason IS NOT NULL", False: "reason IS NULL"}[failed]
        last = b""
        while rows := self._all(
            "SELECT path, size_bytes, mtime_ns, sha256, reason FROM files "
            f"WHERE path > ? AND {condition} ORDER BY path LIMIT 1000",
            last,
        ):
            yield from map(_file_row, rows)
            last = rows[-1][0]

    def totals(self) -> Totals:
        """Counts and sums for ``status``."""
        files, failed = self._one("SELECT count(sha256), count(reason) FROM files") or (0, 0)
        windows, audio_s = self._one(
            "SELECT coalesce(sum(windows), 0), coalesce(sum(duration_s), 0.0) FROM contents"
        ) or (0, 0.0)
        return Totals(files, failed, windows, audio_s)

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def _one(self, sql: str, *values: Any) -> Any:
        with self._lock:
            return self._db.execute(sql, values).fetchone()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _write(self, sql: str, *values: Any) -> None:
        with self._lock:
            self._db.execute(sql, values)


def _file_row(row: tuple[Any, ...]) -> FileRow:
    return FileRow(Path(os.fsdecode(row[0])), *row[1:])
