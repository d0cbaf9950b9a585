"""The only file with SQL: SQLite with WAL and synchronous=FULL: rows, log, one meta row. All untrusted."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from securetf.errors import CasStateError, NoSpaceError

FORMAT = 1
_SPARE_BYTES = 1 << 18  # below that SQLite may lack room for its shared memory and its log
_SCHEMA = (
    "CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, store_id "
    "BLOB NOT NULL, "
    "root_version INTEGER NOT NULL, wrapped_master BLOB NOT NULL, head BLOB NOT NULL) STRICT",
    "CREATE TABLE row (tbl TEXT NOT NULL, key BLOB NOT NULL, version INTEGER NOT NULL, sealed BLOB NOT NULL, "
    "PRIMARY KEY (tbl, key)) STRICT, WITHOUT ROWID",
    "CREATE TABLE log (seq INTEGER PRIMARY KEY, sealed BLOB NOT NULL) STRICT",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The one meta row."""

    format: int
    store_id: bytes
    root_version: int
    wrapped_master: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """One row to write; `sealed` is None to remove it."""

    table: str
    key: bytes
    version: int
    sealed: bytes | None


class SqliteDatabase:
    """One connection. Used by one thread at a time."""

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        mode = "rwc" if create else "rw"
        with self._errors():
            self._connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            for pragma in (
                "trusted_schema = OFF",
                "cell_size_check = ON",
                "journal_mode = WAL",
                "synchronous = FULL",
                "busy_timeout = 5000",
            ):
                self._connection.execute(f"PRAGMA {pragma}")

    def create(self, meta: Meta) -> None:
        """Make the tables and the meta row in one transaction."""
        with self._errors(), self._transaction() as connection:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO meta VALUES (1, ?, ?, ?, ?, ?)",
                (meta.format, meta.store_id, meta.root_version, meta.wrapped_master, meta.head),
            )

    def is_empty(self) -> bool:
        """Whether there are no tables: the making of the store was cut off before it was committed."""
        with self._errors():
            return self._connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None

    def meta(self) -> Meta:
        """Read the meta row after checking that the schema is exactly ours (no triggers, no views)."""
        with self._errors():
            schema = [
                row[0] for row in self._connection.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL")
            ]
            if sorted(schema) != sorted(_SCHEMA):
                raise CasStateError(
                    f"{self._path} does not have the tables of a CAS database",
                    "name the data directory of a CAS",
                )
            rows = self._connection.execute(
                "SELECT format, store_id, root_version, wrapped_master, head FROM meta"
            ).fetchall()
        if len(rows) != 1 or rows[0][0] != FORMAT:
            found = f"format {rows[0][0]}" if rows else "no format"
            raise CasStateError(
                f"{self._path} has {found}, this release reads format {FORMAT}",
                "use the release that wrote it",
            )
        names = ("format", "store_id", "root_version", "wrapped_master", "head")
        return Meta(**dict(zip(names, rows[0], strict=True)))

    def rows(self) -> Iterator[tuple[str, bytes, int, bytes]]:
        """Yield all rows: table, key, version, sealed."""
        with self._errors():
            yield from self._connection.execute("SELECT tbl, key, version, sealed FROM row")

    def row(self, table: str, key: bytes) -> tuple[int, bytes] | None:
        """Read one row: version and sealed."""
        with self._errors():
            found = self._connection.execute(
                "SELECT version, sealed FROM row WHERE tbl = ? AND key = ?", (table, key)
            ).fetchone()
        return None if found is None else (found[0], found[1])

    def log(self, first: int, limit: int) -> list[tuple[int, bytes]]:
        """Read log entries from `first` on, in order."""
        with self._errors():
            return self._connection.execute(
                "SELECT seq, sealed FROM log WHERE seq >= ? ORDER BY seq LIMIT ?", (first, limit)
            ).fetchall()

    def commit(self, changes: Iterable[Change], entries: Iterable[tuple[int, bytes]], head: bytes) -> None:
        """Write rows, log entries and head in one transaction; on return it is on the disk."""
        with self._errors(), self._transaction() as connection:
            for change in changes:
                if change.sealed is None:
                    connection.execute(
                        "DELETE FROM row WHERE tbl = ? AND key = ?", (change.table, change.key)
                    )
                else:
                    connection.execute(
                        "INSERT INTO row VALUES (?, ?, ?, ?) ON CONFLICT (tbl, key) "
                        "DO UPDATE SET version = excluded.version, sealed = excluded.sealed",
                        (change.table, change.key, change.version, change.sealed),
                    )
            connection.executemany("INSERT INTO log VALUES (?, ?)", entries)
            connection.execute("UPDATE meta SET head = ? WHERE id = 1", (head,))

    def close(self) -> None:
        """Close the connection; SQLite folds the WAL into the file when it is the last one."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            failed = name.startswith(
                "SQLITE_IOERR"
            )  # also what SQLite says when its shared memory does not fit
            if name == "SQLITE_FULL" or (failed and self._is_disk_full()):
                raise NoSpaceError(f"no space for {self._path}", "free space; nothing was changed") from None
            if failed:
                raise CasStateError(
                    f"{self._path} cannot be read or written: {error} ({name})",
                    "see the kernel's log (dmesg), repair the disk, then start the CAS again",
                ) from None
            raise CasStateError(
                f"{self._path} cannot be used: {error}", "restore the database that belongs to this anchor"
            ) from None

    def _is_disk_full(self) -> bool:
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < _SPARE_BYTES
