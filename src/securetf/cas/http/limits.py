"""Limits per address of the caller: how often it may call, with bounded memory."""

import ipaddress
from collections import OrderedDict

from securetf.cas.service.context import Bucket
from securetf.errors import LimitError

RATE_PER_S = 2000.0
BURST = 4000.0
MAX_ADDRESSES = 10_000


class RateLimit:
    """One token bucket per address; IPv6 addresses count by their /64. Used on one thread."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, address: str, now_s: float) -> None:
        """Count one call. Raises LimitError when the address has called too often."""
        key = _group(address)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MAX_ADDRESSES:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = Bucket(RATE_PER_S, BURST, at=now_s)
        self._buckets.move_to_end(key)
        if not bucket.take(now_s):
            raise LimitError(f"{key} calls more than {RATE_PER_S:.0f} times a second", "call less often")


def _group(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
