"""Durable state on storage that nobody trusts: docs/formats/cas-state.md.

Each row is sealed and bound to its table, key and version; all rows together are authenticated by a keyed
multiset hash in a sealed head; the head is anchored in a monotonic anchor after each commit and before each
answer.
"""

from securetf.cas.store.anchor import Anchored, MonotonicAnchor
from securetf.cas.store.store import Store, create_store, open_store
from securetf.cas.store.transaction import LogEntry, Transaction

__all__ = ["Anchored", "LogEntry", "MonotonicAnchor", "Store", "Transaction", "create_store", "open_store"]
