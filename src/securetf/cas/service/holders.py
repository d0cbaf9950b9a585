"""Whose signature the holder of a volume's lease makes, as found last.

With it an advance is authenticated without reading the volume's row: its transaction reads that anyway,
and decides there who holds the lease. Forgotten, or out of date, it costs a reading, nothing else: a key id
is the key itself or its hash (`keys`), so that no other key can stand behind it.
"""

import threading
from collections import OrderedDict

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from securetf.keys.signature import SignedRequest

MAX_REMEMBERED = 65_536  # volumes; the one that was found longest ago is forgotten


class Holders:
    """Volume to key id and key; an owner's key is None, since its id spells it out. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._found: OrderedDict[bytes, tuple[str, EllipticCurvePublicKey | None]] = OrderedDict()
        self._lock = threading.Lock()

    def has_verified(self, volume_id: bytes, signed: SignedRequest) -> bool:
        """Check the signature of who held the lease last; False, unchecked, when that was another or nobody.

        Raises:
            NotAuthorisedError: the signature does not hold.
        """
        with self._lock:
            key_id, key = self._found.get(volume_id, ("", None))
        if key_id != signed.key_id:
            return False
        signed.verify(key)
        return True

    def remember(self, volume_id: bytes, key_id: str, key: EllipticCurvePublicKey | None) -> None:
        """Keep who was found to hold the lease, and signs with this key."""
        with self._lock:
            self._found.pop(volume_id, None)
            self._found[volume_id] = (key_id, key)
            if len(self._found) > MAX_REMEMBERED:
                self._found.popitem(last=False)

    def forget(self, volume_id: bytes) -> None:
        """Somebody else holds the lease: the next request is looked up."""
        with self._lock:
            self._found.pop(volume_id, None)
