"""What all parts of the service share: state, clock, identity, and how decisions are made and recorded."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

from securetf import manifest as manifests
from securetf.attester import Attester
from securetf.cas.service.entries import AuditDraft, record
from securetf.cas.service.holders import Holders
from securetf.cas.service.identity import CasIdentity
from securetf.cas.service.leases import Leases
from securetf.cas.service.rows import SessionRow
from securetf.cas.store import Store, Transaction
from securetf.claims import Platform
from securetf.errors import SecuretfError
from securetf.manifest import Manifest
from securetf.verifier import Verifier

if TYPE_CHECKING:
    from securetf.cas.service.tpm import OwnTpm, TpmTrust

_T = TypeVar("_T")
_REFUSALS_PER_S = 50.0  # audited refusals of callers who proved nothing; beyond, they are counted
_REFUSAL_BURST = 500.0
_MANIFESTS_KEPT = 256


class Clock(Protocol):
    """The time: `now` for people and certificates, `monotonic_s` for what must not be turned back."""

    def now(self) -> datetime: ...
    def monotonic_s(self) -> float: ...


@dataclass(slots=True)
class Bucket:
    """A token bucket: `rate` per second, at most `burst` at once."""

    rate: float
    burst: float
    level: float = field(init=False)
    at: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def take(self, now_s: float) -> bool:
        """Take one token if there is one."""
        self.level = min(self.burst, self.level + max(0.0, now_s - self.at) * self.rate)
        self.at = now_s
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(frozen=True, slots=True)
class Refused:
    """A decision that was recorded as a refusal."""

    error: SecuretfError


def settled(outcome: _T | Refused) -> _T:
    """Return what was decided, or raise the refusal."""
    if isinstance(outcome, Refused):
        raise outcome.error
    return outcome


@dataclass(kw_only=True)
class Context:
    """One CAS at work.

    endorsements: returns the collateral of the CAS's own platform as JSON text, for clients. tpm_trust: whose
    TPMs may be enrolled. own_tpm: of the CAS itself, where that is its platform and its key not certified.
    """

    store: Store
    clock: Clock
    identity: CasIdentity
    attester: Attester
    verifiers: Mapping[Platform, Verifier]
    endorsements: Callable[[], str]
    tpm_trust: "TpmTrust | None" = None
    own_tpm: "OwnTpm | None" = None

    def __post_init__(self) -> None:
        self.leases, self.holders = Leases(), Holders()
        self._refusals = Bucket(_REFUSALS_PER_S, _REFUSAL_BURST)
        self._suppressed = 0
        self._lock = threading.Lock()
        self._manifests: dict[bytes, Manifest] = {}

    def manifest_of(self, session: SessionRow) -> Manifest:
        """Return the current Manifest of a session, parsed; parsed ones are kept by their hash."""
        with self._lock:
            known = self._manifests.get(session.manifest_hash)
        if known is not None:
            return known
        parsed = manifests.parse(session.manifest)
        with self._lock:
            if len(self._manifests) >= _MANIFESTS_KEPT:
                self._manifests.pop(next(iter(self._manifests)))
            self._manifests[session.manifest_hash] = parsed
        return parsed

    @property
    def simulated(self) -> bool:
        """True if this CAS is itself in a simulated TEE; then nothing it says counts as hardware."""
        return self.attester.platform is Platform.INSECURE_SIMULATION

    def decide(
        self,
        draft: AuditDraft,
        operation: Callable[[Transaction], _T],
        *,
        always: Callable[[Transaction], None] | None = None,
    ) -> _T:
        """Run `operation` in one transaction with its audit entry; a refusal leaves only its audit entry.

        always: runs first and is kept even when `operation` refuses; its own refusals are recorded too.
        """
        return settled(self.begin(draft, operation, always=always).result())

    def begin(
        self,
        draft: AuditDraft,
        operation: Callable[[Transaction], _T],
        *,
        always: Callable[[Transaction], None] | None = None,
    ) -> "Future[_T | Refused]":
        """As `decide`, for a caller that waits in its own way and then calls `settled`."""

        def body(transaction: Transaction) -> _T | Refused:
            try:
                if always is not None:
                    with transaction.savepoint():
                        always(transaction)
                with transaction.savepoint():
                    result = operation(transaction)
            except SecuretfError as error:
                record(transaction, draft, now=self.clock.now(), simulated=self.simulated, refusal=error)
                return Refused(error)
            record(transaction, draft, now=self.clock.now(), simulated=self.simulated, refusal=None)
            return result

        return self.store.submit(body)

    def record_refusal(self, draft: AuditDraft, error: SecuretfError) -> None:
        """Record a refusal of somebody who has proved nothing yet; floods are counted instead of written."""
        with self._lock:
            if not self._refusals.take(self.clock.monotonic_s()):
                self._suppressed += 1
                return
            draft.suppressed, self._suppressed = self._suppressed, 0

        def body(transaction: Transaction) -> None:
            record(transaction, draft, now=self.clock.now(), simulated=self.simulated, refusal=error)

        self.store.transact(body)
