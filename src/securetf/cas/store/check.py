"""Checks of what the database shows against what the CAS knows."""

import hashlib
from dataclasses import dataclass

from securetf.cas.store.anchor import MonotonicAnchor
from securetf.cas.store.sealing import MODULUS, Head, StoreKeys
from securetf.cas.store.sqlite import SqliteDatabase
from securetf.cas.store.transaction import LogEntry
from securetf.errors import CasRollbackError, CasStateError
from securetf.wire.audit import chain

_FIX = "stop whoever changes the database, and restore the copy that belongs to this anchor"
CHECKPOINT_ENTRIES = 1024  # the chain's digest is remembered before every so many log entries


@dataclass(frozen=True, slots=True)
class Term:
    """What the CAS remembers of a row: its version and its share of the accumulator."""

    version: int
    value: int


RowIndex = dict[str, dict[bytes, Term]]


def check_anchor(head: Head, anchor: MonotonicAnchor) -> None:
    """Compare the database's head with the anchor; take up the one commit that a crash left unanchored.

    Raises:
        CasRollbackError: the database is behind the anchor, or on another branch of history.
    """
    anchored = anchor.read()
    if (head.counter, head.digest()) == (anchored.counter, anchored.digest):
        return
    if head.counter < anchored.counter:
        raise CasRollbackError(
            f"the database is at commit {head.counter}, the anchor at {anchored.counter}: an older "
            "copy was put "
            f"back, {anchored.counter - head.counter} commits are missing",
            f"restore the copy of the database that is at commit {anchored.counter}; if it is lost, "
            "start a new "
            "CAS with another data directory and another anchor, create the sessions and pack the "
            "volumes again",
        )
    if head.counter == anchored.counter + 1 and head.predecessor == anchored.digest:
        anchor.advance(head.counter, head.digest())
        return
    raise CasRollbackError(
        f"the database is at commit {head.counter}, the anchor at {anchored.counter}, and the one "
        "does not follow "
        "from the other",
        "give the anchor file that belongs to this database",
    )


def load_index(database: SqliteDatabase, keys: StoreKeys, head: Head) -> RowIndex:
    """Read and open every row, and compare all of them together with the head.

    Raises:
        CasStateError: a row is altered, moved, missing, added, or of another version.
    """
    index: RowIndex = {}
    total = count = 0
    for table, key, version, sealed in database.rows():
        keys.open_row(table, key, version, sealed)
        term = Term(version, keys.term(table, key, version, sealed))
        index.setdefault(table, {})[key] = term
        total, count = total + term.value, count + 1
    if count != head.rows:
        raise CasStateError(
            f"the database has {count} rows, its head counts {head.rows}: rows were removed or added", _FIX
        )
    if (total % MODULUS).to_bytes(32, "big") != head.accumulator:
        raise CasStateError(
            "the rows of the database are not those of its head: at least one is of another version", _FIX
        )
    return index


def open_checked(
    keys: StoreKeys, table: str, key: bytes, known: Term | None, found: tuple[int, bytes] | None
) -> bytes | None:
    """Open a row as read, if it is the one that the CAS knows.

    Raises:
        CasStateError: missing, resurrected, of another version, or altered.
    """
    what = f"row {table}/{key!r}"
    if known is None or found is None:
        if known is None and found is None:
            return None
        happened = "was removed" if found is None else "should not exist: it was put back or added"
        raise CasStateError(f"{what} {happened}", _FIX)
    version, sealed = found
    if version != known.version:
        raise CasStateError(f"{what} is of commit {version}, expected {known.version}: it was replayed", _FIX)
    if keys.term(table, key, version, sealed) != known.value:
        raise CasStateError(f"{what} is not what was written in commit {version}: altered or replayed", _FIX)
    return keys.open_row(table, key, version, sealed)


def load_checkpoints(database: SqliteDatabase, keys: StoreKeys, head: Head) -> list[bytes]:
    """Follow the log's chain from the beginning; return its digest before entry 0, 1024, 2048 …

    Raises:
        CasStateError: an entry is missing, added or changed.
    """
    checkpoints, digest, seq = [bytes(32)], bytes(32), 0
    while seq < head.log_length:
        for entry in read_entries(
            database, keys, seq, min(CHECKPOINT_ENTRIES, head.log_length - seq), digest
        ):
            digest, seq = entry.digest, entry.seq + 1
        if seq % CHECKPOINT_ENTRIES == 0:
            checkpoints.append(digest)
    if digest != head.log_digest or database.log(head.log_length, 1):
        raise CasStateError("the audit log is not the one of the database's head: entries were changed", _FIX)
    return checkpoints


def read_entries(
    database: SqliteDatabase, keys: StoreKeys, first: int, count: int, digest: bytes
) -> list[LogEntry]:
    """Read exactly `count` entries from `first` on and chain them to `digest`, the digest before them.

    Raises:
        CasStateError: an entry is missing or does not open. The caller compares the last digest.
    """
    entries = []
    stored = database.log(first, count)
    if [seq for seq, _ in stored] != list(range(first, first + count)):
        raise CasStateError(f"audit entries {first} to {first + count - 1} are not all there", _FIX)
    for seq, sealed in stored:
        text = keys.open_row("log", seq.to_bytes(8, "big"), 0, sealed)
        leaf = hashlib.sha256(text).digest()
        digest = chain(digest, leaf)
        entries.append(LogEntry(seq, text, leaf, digest))
    return entries
