"""Leases of readers on the state of a volume that they were told, so that its writer keeps what that needs.

A reader that follows a volume asks where it stands every few seconds. Each answer is a lease of `LEASE_S` on
the state that it names: once the volume has moved on, nobody is told the older state again, so its leases end
by themselves. They are kept in memory alone. A reader whose lease was forgotten gets an error, never other
data.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass

LEASE_S = 120  # seconds from the last answer that named a state
MAX_REMEMBERED = 65_536  # volumes with leases; the one that was asked for longest ago is forgotten


@dataclass(slots=True)
class _Leased:
    """seq: of the newest state that a reader was told. until_s, older_until_s: when the last lease on it and
    on any older one ends, by the monotonic clock.
    """

    seq: int
    until_s: float
    older_until_s: float


class Leases:
    """Which volumes have readers of older states, and for how long. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._leased: OrderedDict[bytes, _Leased] = OrderedDict()
        self._lock = threading.Lock()

    def told(self, volume_id: bytes, seq: int, now_s: float) -> None:
        """Lease the state `seq` to a reader that is told it now."""
        until_s = now_s + LEASE_S
        with self._lock:
            found = self._leased.pop(volume_id, None) or _Leased(seq, until_s, now_s)
            if seq > found.seq:
                found = _Leased(seq, until_s, max(found.until_s, found.older_until_s))
            elif seq < found.seq:  # an owner went back, or answers overtook each other
                found.older_until_s = until_s
            else:
                found.until_s = until_s
            self._leased[volume_id] = found
            if len(self._leased) > MAX_REMEMBERED:
                self._leased.popitem(last=False)

    def before(self, volume_id: bytes, seq: int, now_s: float) -> int:
        """Return for how many seconds, rounded up, states before `seq` are leased; 0 if none is."""
        with self._lock:
            found = self._leased.get(volume_id)
            if found is None:
                return 0
            until_s = found.older_until_s
            if found.seq < seq:
                until_s = max(until_s, found.until_s)
        return max(0, -int(-(until_s - now_s) // 1))
