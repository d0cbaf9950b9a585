"""Challenges without state: nothing is kept for a nonce until it is used.

nonce (32 bytes) = issue time (8 bytes, microseconds of the monotonic clock) ‖ random (8) ‖ MAC (16):
HMAC-SHA256 under a key that lives as long as the process, over time, random, session, workload, instance
and, where the attestation is bound to its connection, the exporter: such a nonce is good there alone.
A flood of challenges costs no memory and pushes no honest one out; a used nonce is remembered until it
expires.
"""

import hmac
import os
import threading
from collections import OrderedDict

from securetf.cas.service.context import Clock
from securetf.errors import LimitError, NonceError

LIFETIME_S = 60
MAX_USED = 200_000  # used nonces of the last LIFETIME_S seconds, about 20 MB
_TIME, _RANDOM, _MAC = 8, 8, 16  # bytes
_FIX = "ask for a new challenge and attest at once"


class Challenges:
    """Issues nonces and takes each back once. Thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._key = clock, os.urandom(32)
        self._used: OrderedDict[bytes, int] = OrderedDict()  # nonce → issue time
        self._lock = threading.Lock()

    def issue(self, session: str, workload: str, instance: int, exporter: bytes | None = None) -> bytes:
        """Return a nonce for one attestation of this workload within LIFETIME_S seconds.

        exporter: of the connection that it is good on; None: on any, for an attestation bound to keys.
        """
        head = int(self._clock.monotonic_s() * 1e6).to_bytes(_TIME, "big") + os.urandom(_RANDOM)
        return head + self._mac(head, session, workload, instance, exporter)

    def consume(
        self, nonce: bytes, session: str, workload: str, instance: int, exporter: bytes | None = None
    ) -> None:
        """Take a nonce back. exporter: as of `issue`, of the connection on which it comes back.

        Raises:
            NonceError: not of this CAS's life, of another workload, session or connection, expired, or used
            before.
            LimitError: too many attestations within LIFETIME_S.
        """
        head, mac = nonce[: _TIME + _RANDOM], nonce[_TIME + _RANDOM :]
        if not hmac.compare_digest(mac, self._mac(head, session, workload, instance, exporter)):
            where = "" if exporter is None else " over this connection"
            raise NonceError(
                f"the nonce was not issued for {workload} of {session}{where}, "
                "or before this CAS was started",
                _FIX,
            )
        now_us = int(self._clock.monotonic_s() * 1e6)
        issued_us = int.from_bytes(head[:_TIME], "big")
        if now_us - issued_us > LIFETIME_S * 1_000_000:
            raise NonceError(f"the nonce is older than {LIFETIME_S} s", _FIX)
        with self._lock:
            self._forget(now_us)
            if nonce in self._used:
                raise NonceError("the nonce was used before", _FIX)
            if len(self._used) >= MAX_USED:
                raise LimitError(
                    f"more than {MAX_USED} attestations in {LIFETIME_S} s", "try again in a minute"
                )
            self._used[nonce] = now_us

    def _forget(self, now_us: int) -> None:
        """Drop what was used so long ago that its nonce has expired in any case."""
        while self._used:
            nonce, used_us = next(iter(self._used.items()))
            if now_us - used_us <= LIFETIME_S * 1_000_000:
                return
            del self._used[nonce]

    def _mac(self, head: bytes, session: str, workload: str, instance: int, exporter: bytes | None) -> bytes:
        bound = exporter or b""
        message = head + bytes([len(bound)]) + bound + f"{session}\0{workload}\0{instance}".encode()
        return hmac.digest(self._key, message, "sha256")[:_MAC]
