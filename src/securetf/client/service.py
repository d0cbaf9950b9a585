"""One service as a client trusts it: what it has proved, and when it has to prove itself again."""

import hashlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from securetf.client.ask import address_of, ask
from securetf.client.checks import verify
from securetf.client.policy import ClientPolicy
from securetf.client.verdict import Attestation, Verdict
from securetf.service_errors import ServiceNotProvedError, ServiceUnreachableError

DEADLINE_S = 10.0  # of one attestation
_EARLY = 4  # the last quarter of an attestation's time is when `early` asks again


def _now() -> datetime:
    return datetime.now(UTC)


class AttestedService:
    """Thread-safe. Fails closed: an attestation that has ended counts for nothing until the next one holds.

    on_attestation: called with each verdict, good or bad, by whichever thread asked.
    """

    def __init__(
        self,
        url: str,
        policy: ClientPolicy,
        *,
        on_attestation: Callable[[Verdict], None] | None = None,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        self.url, self.policy = url.rstrip("/"), policy
        self.host, self.port = address_of(url)
        self._on_attestation, self._clock = on_attestation, clock
        self._lock = threading.Lock()
        self._current: Attestation | None = None
        self._ends_s = 0.0  # monotonic: the wall clock may be set back
        self._early_s = 0.0
        self.attestations = 0

    def ensure(self) -> Attestation:
        """Return what is proved now; ask the service again when that has ended.

        Raises:
            ServiceNotProvedError, ServiceUnreachableError: it does not prove itself (again).
        """
        with self._lock:
            if self._current is not None and time.monotonic() < self._ends_s:
                return self._current
            return self._attest()

    def again(self, seen: Attestation) -> Attestation:
        """Ask the service again, unless somebody has since `seen`: another key was met than the attested one.

        Raises:
            As `ensure`.
        """
        with self._lock:
            if self._current is not None and self._current is not seen and time.monotonic() < self._ends_s:
                return self._current
            return self._attest()

    def early(self) -> None:
        """Ask the service again if little time is left; that it does not answer changes nothing yet.

        Raises:
            ServiceNotProvedError: it answers, and does not prove itself: what it proved before has ended.
        """
        with self._lock:
            proved, ends_s = self._current, self._ends_s
            if proved is None or ends_s - time.monotonic() > self._early_s:
                return
            try:
                self._attest()
            except ServiceUnreachableError:
                self._current, self._ends_s = proved, ends_s

    @property
    def left_s(self) -> float:
        """Seconds until it has to prove itself again; 0 if it has to now."""
        with self._lock:
            return max(0.0, self._ends_s - time.monotonic()) if self._current is not None else 0.0

    def _attest(self) -> Attestation:
        self._current = None
        observation = ask(self.url, deadline_s=DEADLINE_S)
        now = self._clock()
        verdict = verify(observation, self.policy, now=now)
        if self._on_attestation is not None:
            self._on_attestation(verdict)
        proved = verdict.require()
        left_s = (proved.valid_until - now).total_seconds()
        self._ends_s, self._early_s = time.monotonic() + left_s, left_s / _EARLY
        self._current = proved
        self.attestations += 1
        return proved


def matches(spki: bytes, proved: Attestation) -> bool:
    """Tell whether a connection's key (SubjectPublicKeyInfo, DER) is the attested one."""
    return hashlib.sha256(spki).hexdigest() == proved.network_spki_sha256


def other_key(service: AttestedService, spki: bytes) -> ServiceNotProvedError:
    """Return the error for a peer that holds another key than the attested one."""
    return ServiceNotProvedError(
        f"what answers at {service.host}:{service.port} holds the key {hashlib.sha256(spki).hexdigest()}, "
        "which the service has not proved to be its own; nothing was sent",
        "connect to the service itself, not through something that terminates TLS",
    )
