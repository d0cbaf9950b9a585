"""What a request may do to the state: read, write, remove rows, append to the log; all of it or nothing."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from securetf.wire.audit import chain

RowKey = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One log entry: its number, exact text, digest of the text, and the chain's digest after it."""

    seq: int
    text: bytes = field(repr=False)
    leaf: bytes
    digest: bytes


class Transaction:
    """A view of the state with changes on top that nobody else sees before they are durable."""

    def __init__(
        self, read: Callable[[str, bytes], bytes | None], *, log_length: int, log_digest: bytes
    ) -> None:
        self._read = read
        self._known: dict[RowKey, bytes | None] = {}  # rows as they were before: nobody else writes meanwhile
        self.changes: dict[RowKey, bytes | None] = {}
        self.entries: list[LogEntry] = []
        self._log_length, self._log_digest = log_length, log_digest

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return a row's value as of this transaction, None when there is none."""
        if (table, key) in self.changes:
            return self.changes[table, key]
        if (table, key) not in self._known:
            self._known[table, key] = self._read(table, key)
        return self._known[table, key]

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Write a row."""
        self.changes[table, key] = value

    def delete(self, table: str, key: bytes) -> None:
        """Remove a row; nothing happens when there is none."""
        self.changes[table, key] = None

    def append(self, make: Callable[[int], bytes]) -> LogEntry:
        """Append to the log the text that `make` returns for the entry's number."""
        seq, digest = (
            (self.entries[-1].seq + 1, self.entries[-1].digest)
            if self.entries
            else (self._log_length, self._log_digest)
        )
        text = make(seq)
        leaf = hashlib.sha256(text).digest()
        entry = LogEntry(seq, text, leaf, chain(digest, leaf))
        self.entries.append(entry)
        return entry

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what the block did when it raises."""
        changes, entries = dict(self.changes), len(self.entries)
        try:
            yield
        except BaseException:
            self.changes = changes
            del self.entries[entries:]
            raise
