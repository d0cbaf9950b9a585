"""The store: one writer thread commits concurrent transactions together; readers check what they read."""

import fcntl
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from securetf.cas.store import check
from securetf.cas.store.anchor import Anchored, MonotonicAnchor, sync_directory
from securetf.cas.store.check import CHECKPOINT_ENTRIES, RowIndex, Term
from securetf.cas.store.sealing import GENESIS, KEY_SIZE, MODULUS, Head, StoreKeys, unwrap_master, wrap_master
from securetf.cas.store.sqlite import FORMAT, Change, Meta, SqliteDatabase
from securetf.cas.store.transaction import LogEntry, Transaction
from securetf.errors import CasStateError, SecuretfError

_T = TypeVar("_T")
_MAX_GROUP = 256  # transactions in one commit
_DATABASE = "cas.sqlite"
_LOCK = "lock"

_Job = tuple[Callable[[Transaction], Any], "Future[Any]"]


class Store:
    """The CAS's state. Thread-safe. Made by `create_store` or `open_store`."""

    def __init__(
        self,
        *,
        lock: int,
        writer: SqliteDatabase,
        reader: SqliteDatabase,
        keys: StoreKeys,
        head: Head,
        index: RowIndex,
        checkpoints: list[bytes],
        anchor: MonotonicAnchor,
    ) -> None:
        self._lock_descriptor, self._writer, self._reader = lock, writer, reader
        self._keys, self._head, self._index, self._anchor = keys, head, index, anchor
        self._checkpoints = checkpoints
        self._publish = threading.Lock()  # held from COMMIT until the index agrees with the database
        self._read_lock = threading.Lock()  # one reader connection
        self._broken: SecuretfError | None = None
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="cas-store-writer", daemon=True)
        self._thread.start()

    @property
    def counter(self) -> int:
        """Number of commits so far."""
        return self._head.counter

    @property
    def usable(self) -> bool:
        """Whether it is open."""
        return self._thread.is_alive()

    def log_head(self) -> tuple[int, bytes]:
        """Return the log's length and chain digest, as durable now."""
        head = self._head
        return head.log_length, head.log_digest

    def transact(self, operation: Callable[[Transaction], _T]) -> _T:
        """Run `operation` alone on the newest state; when this returns, its changes are durable and anchored.

        Whatever `operation` raises undoes its changes and is raised here. It runs on the writer's thread:
        quick decisions only, no input or output.

        Raises:
            CasStateError: the database is not what it was, or cannot be written.
            NoSpaceError: the disk is full; nothing was changed.
        """
        return self.submit(operation).result()

    def submit(self, operation: Callable[[Transaction], _T]) -> "Future[_T]":
        """As `transact`, for a caller that waits in its own way."""
        future: Future[_T] = Future()
        self._jobs.put((operation, future))
        return future

    def get(self, table: str, key: bytes) -> bytes | None:
        """Read one row, durable state only. Raises CasStateError when the database shows anything else."""
        self._check_usable()
        with self._read_lock:
            try:
                return self._read(self._reader, table, key)
            except CasStateError:
                with self._publish:  # a commit may have come between index and database; now none can
                    return self._read(self._reader, table, key)

    def keys(self, table: str, prefix: bytes) -> list[bytes]:
        """Return the keys of a table that begin with `prefix`, sorted."""
        with self._publish:
            return sorted(key for key in self._index.get(table, {}) if key.startswith(prefix))

    def log(self, first: int, limit: int) -> tuple[bytes, list[LogEntry], tuple[int, bytes]]:
        """Return the digest before `first`, up to `limit` entries, and length and digest of the whole log.

        The chain is followed from a remembered digest to the next one or to the head, so that every entry
        returned is authenticated.

        Raises:
            CasStateError: an entry is missing or changed.
        """
        self._check_usable()
        with self._publish:
            (length, head_digest), checkpoints = self.log_head(), list(self._checkpoints)
        end = min(first + limit, length)
        if first >= end:
            return head_digest, [], (length, head_digest)
        start = first // CHECKPOINT_ENTRIES
        stop = -(-end // CHECKPOINT_ENTRIES)
        known = stop < len(checkpoints)
        begin, until = start * CHECKPOINT_ENTRIES, stop * CHECKPOINT_ENTRIES if known else length
        with self._read_lock:
            entries = check.read_entries(self._reader, self._keys, begin, until - begin, checkpoints[start])
        if entries[-1].digest != (checkpoints[stop] if known else head_digest):
            raise CasStateError(f"audit entries {begin} to {until - 1} were changed", "restore the database")
        previous = entries[first - begin - 1].digest if first > begin else checkpoints[start]
        return previous, entries[first - begin : end - begin], (length, head_digest)

    def close(self) -> None:
        """Finish what was handed in, then close."""
        self._jobs.put(None)
        self._thread.join()
        self._writer.close()
        self._reader.close()
        self._anchor.close()
        os.close(self._lock_descriptor)

    def _check_usable(self) -> None:
        if self._broken is not None:
            raise CasStateError(
                f"the CAS stopped using its state after: {self._broken.problem}", self._broken.fix
            )

    def _read(self, database: SqliteDatabase, table: str, key: bytes) -> bytes | None:
        known, found = self._index.get(table, {}).get(key), database.row(table, key)
        return check.open_checked(self._keys, table, key, known, found)

    def _run(self) -> None:
        running = True
        while running:
            group: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                group.append(job)
                if len(group) == _MAX_GROUP or self._jobs.empty():
                    break
                job = self._jobs.get()
            running = job is not None
            if group:
                self._commit_group(group)

    def _commit_group(self, group: list[_Job]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        head = self._head
        transaction = Transaction(
            lambda table, key: self._read(self._writer, table, key),
            log_length=head.log_length,
            log_digest=head.log_digest,
        )
        for operation, future in group:
            try:
                self._check_usable()
                with transaction.savepoint():
                    done.append((future, operation(transaction)))
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller, who gets it
                future.set_exception(error)
        try:
            if transaction.changes or transaction.entries:
                self._commit(transaction)
        except SecuretfError as error:
            for future, _ in done:
                future.set_exception(error)
            return
        for future, result in done:
            future.set_result(result)

    def _commit(self, transaction: Transaction) -> None:
        counter = self._head.counter + 1
        changes: list[Change] = []
        terms: dict[tuple[str, bytes], Term | None] = {}
        total, rows = int.from_bytes(self._head.accumulator, "big"), self._head.rows
        for (table, key), value in transaction.changes.items():
            known = self._index.get(table, {}).get(key)
            if known is None and value is None:
                continue
            if known is not None:
                total, rows = total - known.value, rows - 1
            term = None
            sealed = None
            if value is not None:
                sealed = self._keys.seal_row(table, key, counter, value)
                term = Term(counter, self._keys.term(table, key, counter, sealed))
                total, rows = total + term.value, rows + 1
            changes.append(Change(table, key, counter, sealed))
            terms[table, key] = term
        last = transaction.entries[-1] if transaction.entries else None
        head = Head(
            counter=counter,
            rows=rows,
            accumulator=(total % MODULUS).to_bytes(32, "big"),
            log_length=last.seq + 1 if last else self._head.log_length,
            log_digest=last.digest if last else self._head.log_digest,
            predecessor=self._head.digest(),
        )
        entries = [
            (entry.seq, self._keys.seal_row("log", entry.seq.to_bytes(8, "big"), 0, entry.text))
            for entry in transaction.entries
        ]
        sealed_head = self._keys.seal_head(head)
        with self._publish:
            self._writer.commit(changes, entries, sealed_head)
            self._head = head
            self._checkpoints.extend(
                entry.digest for entry in transaction.entries if (entry.seq + 1) % CHECKPOINT_ENTRIES == 0
            )
            for (table, key), term in terms.items():
                of_table = self._index.setdefault(table, {})
                if term is None:
                    of_table.pop(key, None)
                else:
                    of_table[key] = term
        try:
            self._anchor.advance(counter, head.digest())
        except SecuretfError as error:
            self._broken = error  # durable, but never answered: a restart takes it up again
            raise


def create_store(
    directory: Path, *, root_key: bytes, root_version: int, store_id: bytes, anchor: MonotonicAnchor
) -> Store:
    """Make a new, empty store in `directory` (made with mode 0700 when absent).

    The anchor must be at counter 0 of `store_id` (16 random bytes).

    Raises:
        CasStateError: there is a database already, or the anchor has counted before.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _lock(directory)
    path = directory / _DATABASE
    if read_meta(directory) is not None or anchor.read() != Anchored(0, GENESIS.digest()):
        os.close(lock)
        raise CasStateError(
            f"{path} exists or its anchor has counted before",
            "start the CAS on it, or name an empty directory",
        )
    master = os.urandom(KEY_SIZE)
    keys = StoreKeys.derive(master, store_id)
    unfinished = directory / f"{_DATABASE}.new"
    for name in (unfinished.name, f"{unfinished.name}-wal", f"{unfinished.name}-shm"):
        (directory / name).unlink(missing_ok=True)
    database = SqliteDatabase(unfinished, create=True)
    database.create(
        Meta(
            format=FORMAT,
            store_id=store_id,
            root_version=root_version,
            wrapped_master=wrap_master(root_key, store_id, root_version, master),
            head=keys.seal_head(GENESIS),
        )
    )
    database.close()
    unfinished.rename(path)
    sync_directory(directory)
    writer, reader = SqliteDatabase(path, create=False), SqliteDatabase(path, create=False)
    return Store(
        lock=lock,
        writer=writer,
        reader=reader,
        keys=keys,
        head=GENESIS,
        index={},
        checkpoints=[bytes(32)],
        anchor=anchor,
    )


def read_meta(directory: Path) -> Meta | None:
    """Return the unauthenticated meta row of a store, None when the directory holds none, or an empty one.

    Raises:
        CasStateError: there is a file that is no CAS database of a format that this release reads.
    """
    path = directory / _DATABASE
    if not path.exists():
        return None
    database = SqliteDatabase(path, create=False)
    try:
        return None if database.is_empty() else database.meta()
    finally:
        database.close()


def open_store(directory: Path, *, root_keys: dict[int, bytes], anchor: MonotonicAnchor) -> Store:
    """Open a store and check all of it.

    Raises:
        CasRollbackError: the database is older than the anchor, or of another history.
        CasStateError: rows or log entries are missing, altered, replayed or mixed; or another root key.
    """
    lock = _lock(directory)
    try:
        path = directory / _DATABASE
        writer = SqliteDatabase(path, create=False)
        meta = writer.meta()
        root_key = root_keys.get(meta.root_version)
        if root_key is None:
            raise CasStateError(
                f"the database is sealed under version {meta.root_version} of the root key, which is "
                "not here",
                "start with the root key file that belongs to this database",
            )
        master = unwrap_master(root_key, meta.store_id, meta.root_version, meta.wrapped_master)
        keys = StoreKeys.derive(master, meta.store_id)
        head = keys.open_head(meta.head)
        index = check.load_index(writer, keys, head)
        checkpoints = check.load_checkpoints(writer, keys, head)
        check.check_anchor(head, anchor)
        reader = SqliteDatabase(path, create=False)
    except BaseException:
        os.close(lock)
        raise
    return Store(
        lock=lock,
        writer=writer,
        reader=reader,
        keys=keys,
        head=head,
        index=index,
        checkpoints=checkpoints,
        anchor=anchor,
    )


def _lock(directory: Path) -> int:
    try:
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CasStateError(
            f"{directory} cannot be used: {error.strerror}", "name a directory that you may write to"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise CasStateError(
            f"another CAS runs on {directory}", "stop it first, or name another data directory"
        ) from None
    return descriptor
