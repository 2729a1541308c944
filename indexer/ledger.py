"""The ledger: which file, which content, which state, which error. SQLite, one row a file and one a content.

Order of writing: a content is announced (``pending``), its vectors go to the memory, and only then it becomes
``indexed``. Whatever a kill leaves behind is therefore known here, and the next run completes or removes it.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine.errors import DamagedLedgerError, LibraryError

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
    # A reason about the path (gone, changed, no permission) may pass: such files are tried again by every run. It is 2
    # where the file had been heard and the memory lost it.
    "ALTER TABLE files ADD COLUMN transient INTEGER NOT NULL DEFAULT 0;",
    # What is wrong with a content that was heard all the same.
    "ALTER TABLE contents ADD COLUMN remark TEXT;",
    # Whether what was heard has been put into words, too.
    """
    ALTER TABLE contents ADD COLUMN captioned INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX contents_to_caption ON contents (sha256) WHERE state = 'indexed' AND captioned = 0
    """,
    # Whether what is said of it is to be replaced.
    """
    ALTER TABLE contents ADD COLUMN say_again INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX contents_to_say_again ON contents (sha256) WHERE say_again = 1
    """,
    # Who has put it into words, if that has a name.
    "ALTER TABLE contents ADD COLUMN captioned_by TEXT;",
)
_FILE = "SELECT path, size_bytes, mtime_ns, sha256, reason, transient FROM files"
LOST = "none of its vectors in the memory, or not all; expected all that were heard; index it again"
#: How far the end of a content's last window may be from its duration: both are counts of samples by a rate.
END_TOLERANCE_S = 1e-3
#: How long one process waits for another that is just writing.
BUSY_S = 30.0
_TALLY_AT_ONCE = 10_000

# What was expected and what to do, by SQLite's primary code of what is not the file's fault.
_FAULT = ("one to read and write", "check its disk, then do the same again: what was written is kept")
_FORBIDDEN = (
    "one that we may read and write, in a folder that we may write to",
    "make it writable, or copy the folder to where you may write: only `earshot status` can do without",
)
_FAULTS = {
    sqlite3.SQLITE_FULL: ("room on its disk", "free some space, then do the same again: what was written is kept"),
    sqlite3.SQLITE_BUSY: ("one that others let go of", "wait for whoever is writing to it, then do the same again"),
    sqlite3.SQLITE_READONLY: _FORBIDDEN,
    sqlite3.SQLITE_CANTOPEN: _FORBIDDEN,
    sqlite3.SQLITE_PERM: _FORBIDDEN,
}


@dataclass(frozen=True, slots=True)
class FileRow:
    """What the ledger knows of one path: its content (``sha256``), or the ``reason`` why it could not be heard.

    ``transient`` reasons are about the path, not the content: the next run tries again.
    """

    path: Path
    size_bytes: int
    mtime_ns: int
    sha256: str | None
    reason: str | None
    transient: bool = False


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over what has been heard; each content counts once, however many copies of it there are.

    ``failed`` are files that could not be heard, ``lost`` those that the memory has lost: they are to be heard again.
    """

    files: int
    failed: int
    windows: int
    audio_s: float
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Remembered:
    """What one point of a memory says of its content; its first window says all paths."""

    sha256: str
    window: int
    end_s: float
    duration_s: float | None
    paths: Sequence[Path]


class Ledger:
    """The ledger of one library; safe to use from several threads of one process.

    One that we may not write is opened to be read.
    """

    def __init__(self, path: Path) -> None:
        """Open or create it. Raises ``DamagedLedgerError``, and ``LibraryError`` for one of a newer earshot."""
        self._lock, self._path = threading.RLock(), path
        with self._used():
            if path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
                self._db = _to_read(path)
            else:
                self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
                self._use_wal()
                self._db.execute("PRAGMA synchronous=FULL")
            self._migrate(path)

    def _use_wal(self) -> None:
        """Several processes may create a ledger at once; SQLite does not wait for this change of mode by itself."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _migrate(self, path: Path) -> None:
        if self._version(path) == len(MIGRATIONS):
            return
        with self.transaction():  # whoever comes second finds the work done
            for number in range(self._version(path), len(MIGRATIONS)):
                for statement in MIGRATIONS[number].split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={number + 1}")

    def _version(self, path: Path) -> int:
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise LibraryError(
                f"a ledger of version {version} in {path}", f"at most {len(MIGRATIONS)}", "update earshot: it is newer"
            )
        return version

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside becomes durable together, or not at all."""
        with self._used():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have ended it itself, as on a full disk
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _used(self) -> Iterator[None]:
        """Inside, the database is ours. Raises ``DamagedLedgerError``, ``LibraryError`` where it can't be used."""
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:  # the disk's fault, or a lock's, not the file's
                expected, action = _FAULTS.get(error.sqlite_errorcode & 0xFF, _FAULT)
                raise LibraryError(f"a ledger that can't be used ({self._path}: {error})", expected, action) from error
            except sqlite3.DatabaseError as error:
                raise _damaged(self._path, str(error)) from error

    def setting(self, key: str) -> Any:
        """A setting of the library, or None."""
        row = self._one("SELECT value FROM settings WHERE key = ?", key)
        return None if row is None else json.loads(row[0])

    def set_setting(self, key: str, value: Any) -> None:
        """Keep a setting (any JSON value)."""
        self._write("INSERT OR REPLACE INTO settings VALUES (?, ?)", key, json.dumps(value))

    def settle(self, key: str, value: Any) -> Any:
        """Keep a setting unless there is one already; returns the one that holds, whoever came first."""
        self._write("INSERT OR IGNORE INTO settings VALUES (?, ?)", key, json.dumps(value))
        return self.setting(key)

    def file(self, path: Path) -> FileRow | None:
        """What is known of a path."""
        row = self._one(f"{_FILE} WHERE path = ?", os.fsencode(path))
        return None if row is None else _file_row(row)

    def is_indexed(self, sha256: str) -> bool:
        """Whether all vectors of this content are in the memory."""
        row = self._one("SELECT state FROM contents WHERE sha256 = ?", sha256)
        return row is not None and row[0] == "indexed"

    def uncaptioned(self, roots: Sequence[Path], limit: int, only_again: bool = False) -> dict[str, int]:
        """At most ``limit`` whole contents with a file below ``roots`` that are not captioned, and their windows.

        ``only_again``: of these the ones that were once, and are to be said again.
        """
        here, places = _below(roots)
        rows = self._all(
            "SELECT sha256, windows FROM contents AS c WHERE state = 'indexed' AND captioned = 0 AND say_again >= ? "
            f"AND EXISTS (SELECT 1 FROM files WHERE sha256 = c.sha256 AND ({here})) ORDER BY sha256 LIMIT ?",
            int(only_again),
            *places,
            limit,
        )
        return dict(rows)

    def mark_captioned(self, by: Mapping[str, str]) -> None:
        """After the captions of these contents are on disk; each with the name of its captioner, or an empty one."""
        with self.transaction():
            for sha256, name in by.items():
                self._db.execute(
                    "UPDATE contents SET captioned = 1, say_again = 0, captioned_by = ? WHERE sha256 = ?",
                    (name or None, sha256),
                )

    def say_again(self, roots: Sequence[Path], by: str) -> None:
        """What has been heard below ``roots`` is to be captioned anew, but what ``by`` has captioned already."""
        here, places = _below(roots)
        self._write(
            "UPDATE contents SET captioned = 0, say_again = 1 WHERE state = 'indexed' AND captioned_by IS NOT ? AND "
            f"sha256 IN (SELECT sha256 FROM files WHERE {here})",
            by or "",
            *places,
        )

    def forget_captioners(self) -> None:
        """Nothing has been captioned by anybody known: asked to, any captioner says it again."""
        self._write("UPDATE contents SET captioned_by = NULL WHERE captioned = 1")

    def say_again_as(self, other: Ledger) -> None:
        """What another ledger has captions of is to be captioned here, too."""
        said = other._all("SELECT sha256 FROM contents WHERE captioned = 1 OR say_again = 1")
        with self.transaction():
            self._db.executemany("UPDATE contents SET say_again = 1 WHERE captioned = 0 AND sha256 = ?", said)

    def captioned_otherwise(self, roots: Sequence[Path], by: str) -> int:
        """How many contents below ``roots`` another captioner than ``by`` has captioned."""
        here, places = _below(roots)
        sql = "SELECT count(*) FROM contents WHERE captioned = 1 AND captioned_by IS NOT ? AND "
        return int(self._one(f"{sql} sha256 IN (SELECT sha256 FROM files WHERE {here})", by, *places)[0])

    def unsaid(self) -> int:
        """Of how many contents what is said is still to be replaced."""
        return int(self._one("SELECT count(*) FROM contents WHERE say_again = 1")[0])

    def to_say_again(self, sha256: str | None = None) -> bool:
        """Whether what is said of a content, or of any, is still to be replaced."""
        which = "? IS NULL" if sha256 is None else "sha256 = ?"
        return self._one(f"SELECT 1 FROM contents WHERE say_again = 1 AND {which} LIMIT 1", sha256) is not None

    def paths_of(self, sha256: str) -> list[Path]:
        """Every known path of a content, sorted."""
        rows = self._all("SELECT path FROM files WHERE sha256 = ? ORDER BY path", sha256)
        return [Path(os.fsdecode(row[0])) for row in rows]

    def announce(self, sha256: str) -> None:
        """Before the first vector of a content is written."""
        self._write("INSERT INTO contents (sha256, state) VALUES (?, 'pending') ON CONFLICT DO NOTHING", sha256)

    def complete(self, sha256: str, windows: int, duration_s: float, remark: str | None = None) -> None:
        """After the last vector of a content is on disk; ``remark`` says what is wrong with it all the same."""
        self._write(
            "INSERT OR REPLACE INTO contents (sha256, state, windows, duration_s, remark) "
            "VALUES (?, 'indexed', ?, ?, ?)",
            *(sha256, windows, duration_s, remark),
        )

    def assign(self, path: Path, size_bytes: int, mtime_ns: int, sha256: str) -> None:
        """This path now holds this content."""
        self._write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, NULL, 0)",
            *(os.fsencode(path), size_bytes, mtime_ns, sha256),
        )

    def fail(self, path: Path, size_bytes: int, mtime_ns: int, reason: str, transient: bool = False) -> None:
        """This path could not be heard, and why; ``transient`` if that is about the path, not the content."""
        self._write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, NULL, ?, ?)",
            *(os.fsencode(path), size_bytes, mtime_ns, reason, transient),
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

    def disown_lost(self, points: Iterable[str]) -> int:
        """Compare with ``points``, the content of every point in the memory, in any order; returns how many are lost.

        A content that has not as many points as windows becomes pending and its files transiently failed, so that
        any run hears them again. What the memory alone knows becomes an orphan. Bounded memory: SQLite counts.
        """
        with self._lock:
            self._db.execute("CREATE TEMP TABLE tally (sha256 TEXT PRIMARY KEY, points INTEGER) WITHOUT ROWID")
            stream = iter(points)
            try:
                while counts := Counter(islice(stream, _TALLY_AT_ONCE)):
                    self._db.executemany(
                        "INSERT INTO tally VALUES (?, ?) "
                        "ON CONFLICT (sha256) DO UPDATE SET points = points + excluded.points",
                        counts.items(),
                    )
                return self._disown_by_tally()
            finally:
                self._db.execute("DROP TABLE tally")

    def _disown_by_tally(self) -> int:
        with self.transaction():
            lost = self._db.execute(
                "UPDATE contents SET state = 'pending' WHERE state = 'indexed' AND windows != "
                "coalesce((SELECT points FROM tally WHERE tally.sha256 = contents.sha256), 0)"
            ).rowcount
            self._db.execute(
                "UPDATE files SET reason = ?, transient = 2, sha256 = NULL "
                "WHERE sha256 IN (SELECT sha256 FROM contents WHERE state = 'pending')",
                (LOST,),
            )
            self._db.execute(
                "INSERT INTO contents (sha256, state) SELECT sha256, 'pending' FROM tally WHERE true "
                "ON CONFLICT DO NOTHING"
            )
        return lost

    def adopt(self, other: Ledger, *but: str) -> None:
        """Take over what another ledger says of files, whole contents and settings, except the settings ``but``.

        All in one transaction. Files that only this one knew are forgotten; contents without a file are orphans then.
        """
        with other._lock, self.transaction():
            self._db.execute("DELETE FROM files")
            for table, which in (("settings", "true"), ("contents", "state = 'indexed'"), ("files", "true")):
                rows = other._db.execute(f"SELECT * FROM {table} WHERE {which}")
                wanted = (row for row in rows if table != "settings" or row[0] not in but)
                marks = ", ".join("?" for _ in rows.description)
                self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", wanted)

    def become(self, other: Ledger, settings: Mapping[str, Any]) -> None:
        """Hold what another ledger says of files and contents, and nothing else, with these settings beside our others.

        All in one transaction, so that whoever reads meanwhile sees the one or the other.
        """
        with other._lock, self.transaction():
            for table in ("files", "contents"):
                self._db.execute(f"DELETE FROM {table}")
                rows = other._db.execute(f"SELECT * FROM {table}")
                names = ", ".join(name for name, *_ in rows.description)
                marks = ", ".join("?" for _ in rows.description)
                self._db.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
            for key, value in settings.items():
                self._db.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (key, json.dumps(value)))

    def copy_to(self, path: Path) -> None:
        """Write all of it to another file, which is whole or not there. Raises ``LibraryError``."""
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.unlink(missing_ok=True)
        with self._used(), closing(sqlite3.connect(unfinished)) as copy:
            copy.execute("PRAGMA synchronous=FULL")
            self._db.backup(copy)
        for end in ("-wal", "-shm"):  # of what stood there before
            path.with_name(path.name + end).unlink(missing_ok=True)
        unfinished.replace(path)

    def rebuild(self, points: Iterable[Remembered]) -> int:
        """Take contents and paths from ``points``, all that the memory holds, in any order. Bounded memory.

        A content is whole if no window is missing up to its end; others become pending and have no files: returns how
        many. All in one transaction. Of files, size and time are unknown, so that the next run looks at each.
        """
        with self._lock, self.transaction():
            self._db.execute(
                "CREATE TEMP TABLE seen (sha256 TEXT PRIMARY KEY, points INTEGER, last INTEGER, end_s REAL, "
                "duration_s REAL) WITHOUT ROWID"
            )
            self._db.execute("CREATE TEMP TABLE placed (path BLOB PRIMARY KEY, sha256 TEXT) WITHOUT ROWID")
            for point in points:
                self._db.execute(
                    "INSERT INTO seen VALUES (?, 1, ?, ?, ?) ON CONFLICT (sha256) DO UPDATE SET points = points + 1, "
                    "last = max(last, excluded.last), end_s = max(end_s, excluded.end_s), "
                    "duration_s = coalesce(duration_s, excluded.duration_s)",
                    (point.sha256, point.window, point.end_s, point.duration_s),
                )
                places = ((os.fsencode(path), point.sha256) for path in point.paths)
                self._db.executemany("INSERT OR REPLACE INTO placed VALUES (?, ?)", places)
            self._db.execute(
                "INSERT OR REPLACE INTO contents (sha256, state, windows, duration_s) "
                "SELECT sha256, iif(points = last + 1 AND end_s >= duration_s - ?, 'indexed', 'pending'), points, "
                "coalesce(duration_s, 0) FROM seen",
                (END_TOLERANCE_S,),
            )
            self._db.execute(
                "INSERT OR REPLACE INTO files SELECT path, -1, 0, sha256, NULL, 0 FROM placed "
                "JOIN contents USING (sha256) WHERE state = 'indexed'"
            )
            self._db.execute("DROP TABLE seen")
            self._db.execute("DROP TABLE placed")
            return int(self._db.execute("SELECT count(*) FROM contents WHERE state = 'pending'").fetchone()[0])

    def check(self) -> None:
        """Read all of it. Raises ``DamagedLedgerError``."""
        said = [row[0] for row in self._all("PRAGMA integrity_check(1)")]
        if said != ["ok"]:
            raise _damaged(self._path, said[0])

    @property
    def is_blank(self) -> bool:
        """Whether nothing was ever written to it, as is so of a new one."""
        return self._one("SELECT 1 FROM contents UNION ALL SELECT 1 FROM files LIMIT 1") is None

    def files(self, failed: bool | None = None) -> Iterator[FileRow]:
        """Rows of all files, of the failed ones, or of the others; a page at a time, by path."""
        condition = {None: "1", True: "reason IS NOT NULL", False: "reason IS NULL"}[failed]
        return self._pages(b"", condition)

    def contents(self) -> Iterator[list[tuple[str, int]]]:
        """All whole contents, each with its number of windows; a few hundred at a time, by sha256."""
        last = ""
        while rows := self._all(
            "SELECT sha256, windows FROM contents WHERE sha256 > ? AND state = 'indexed' ORDER BY sha256 LIMIT 256",
            last,
        ):
            yield rows
            last = rows[-1][0]

    def damaged(self) -> Iterator[tuple[Path, str]]:
        """The files that were heard though something is wrong with them, and what; by path."""
        rows = self._all("SELECT path, remark FROM files JOIN contents USING (sha256) WHERE remark NOT NULL ORDER BY 1")
        return ((Path(os.fsdecode(path)), remark) for path, remark in rows)

    def files_under(self, root: Path) -> Iterator[FileRow]:
        """The row of this path, if it is a file, and of all below it; a page at a time."""
        if row := self.file(root):
            yield row
        below = os.path.join(os.fsencode(root), b"")
        yield from self._pages(below, "path < ?", below[:-1] + b"0")  # "0" is what follows "/"

    def _pages(self, last: bytes, condition: str, *values: Any) -> Iterator[FileRow]:
        while rows := self._all(f"{_FILE} WHERE path > ? AND {condition} ORDER BY path LIMIT 1000", last, *values):
            yield from map(_file_row, rows)
            last = rows[-1][0]

    def totals(self) -> Totals:
        """Counts and sums for ``status``."""
        files, failed, lost = self._one(
            "SELECT count(sha256), count(reason), count(*) FILTER (WHERE transient = 2) FROM files"
        ) or (0, 0, 0)
        windows, audio_s = self._one(
            "SELECT coalesce(sum(windows), 0), coalesce(sum(duration_s), 0.0) FROM contents WHERE state = 'indexed'"
        ) or (0, 0.0)
        return Totals(files, failed - lost, windows, audio_s, lost)

    def waiting(self) -> int:
        """How many sounds, at least, are to be heard again: lost, or left half heard by a killed run."""
        [pending] = self._one("SELECT count(*) FROM contents WHERE state = 'pending'")
        return max(self.totals().lost, int(pending))

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._db.close()

    def _one(self, sql: str, *values: Any) -> Any:
        with self._used():
            return self._db.execute(sql, values).fetchone()

    def _all(self, sql: str, *values: Any) -> list[Any]:
        with self._used():
            return self._db.execute(sql, values).fetchall()

    def _write(self, sql: str, *values: Any) -> None:
        with self._used():
            self._db.execute(sql, values)


def _to_read(path: Path) -> sqlite3.Connection:
    """A ledger that we may only read. SQLite reads a log that others write; without one the file is all there is."""
    log = path.with_name(f"{path.name}-wal")
    how = "mode=ro" if log.exists() else "immutable=1"
    uri = f"file:{quote(os.fsencode(path))}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _damaged(path: Path, said: str) -> DamagedLedgerError:
    return DamagedLedgerError(
        f"a damaged ledger ({path}: {said})",
        "an SQLite file",
        "`earshot repair` rebuilds it from the memory, without hearing anything again",
    )


def _below(roots: Sequence[Path]) -> tuple[str, list[bytes]]:
    """The condition that a file is one of ``roots`` or lies below one, and its values."""
    places: list[bytes] = []
    for root in map(os.fsencode, roots):
        below = os.path.join(root, b"")
        places += [root, below, below[:-1] + b"0"]  # "0" is what follows "/"
    return " OR ".join("path = ? OR (path > ? AND path < ?)" for _ in roots), places


def _file_row(row: tuple[Any, ...]) -> FileRow:
    path, size_bytes, mtime_ns, sha256, reason, transient = row
    return FileRow(Path(os.fsdecode(path)), size_bytes, mtime_ns, sha256, reason, bool(transient))
