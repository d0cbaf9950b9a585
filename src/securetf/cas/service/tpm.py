"""TPMs: which attestation keys live in certified TPMs, and the CAS's own TPM.

An enrolment releases nothing: it says that a key is in the TPM with that endorsement key, which the vendor
certified. What such a machine may have, the Manifest says.
"""

import hmac
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.rows import TpmKeyRow, TpmRow, find, put
from securetf.cas.store import Store, Transaction
from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import Issuers, KnownAk
from securetf.errors import NonceError, SecuretfError, UnsupportedPlatformError
from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.verifier import tpm2_activation
from securetf.verifier.tpm2_activation import CheckedEk
from securetf.wire.tpm import (
    CasTpmRequest,
    CasTpmResponse,
    TpmChallengeRequest,
    TpmChallengeResponse,
    TpmEnrolRequest,
    TpmEnrolResponse,
    TpmKeys,
)

LIFETIME_S = 300  # a TPM may take long for its endorsement key
KEYS_PER_TPM = 8  # the oldest gives way
_TIME, _RANDOM = 8, 8  # bytes of a ticket
_FIX = "enrol again: `securetf tpm enrol`"
# Certificates as they came and the time, to those above them and the revocation lists that all of them name.
Completed = Callable[[Sequence[bytes], datetime], Issuers]


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmTrust:
    """Whose TPMs count. anchors: their manufacturers' roots. completed: finds issuers that did not come,
    and revocation lists.
    """

    anchors: TrustAnchors
    completed: Completed = lambda *_: Issuers()


class OwnTpm(Protocol):
    """The TPM that makes the CAS's own Evidence."""

    def keys(self) -> TpmKeys:
        """Return its keys. Raises AttesterError."""
        ...

    def answer(self, credential: bytes, encrypted_seed: bytes) -> bytes:
        """Open a challenge. Raises AttesterError."""
        ...


def enrolment_of(store: Store, name: bytes) -> KnownAk | None:
    """Return what is known of an attestation key by its TPM name."""
    row = find(store, TpmKeyRow, name)
    if row is None:
        return None
    valid_until = datetime.fromtimestamp(row.valid_until, UTC)
    return KnownAk(name=name, ek_sha256=row.ek_sha256, valid_until=valid_until)


@dataclass(frozen=True, slots=True)
class Tpms:
    """Enrols TPMs, without state until one has answered."""

    context: Context
    trust: TpmTrust | None
    own: OwnTpm | None
    _key: bytes = field(default_factory=lambda: os.urandom(32), repr=False)

    def challenge(self, request: TpmChallengeRequest) -> TpmChallengeResponse:
        """Return a challenge for these keys.

        Raises:
            UnsupportedPlatformError: no manufacturer is trusted. EvidenceError: the keys are not those of a
            certified TPM.
        """
        ek, ak = self._checked(request)
        ticket = int(self.context.clock.monotonic_s() * 1e6).to_bytes(_TIME, "big") + os.urandom(_RANDOM)
        curve = ek.key.curve if isinstance(ek.key, ec.EllipticCurvePublicKey) else None
        made = tpm2_activation.challenge(
            ek,
            ak,
            secret=self._secret(ticket, ek, ak),
            seed=os.urandom(tpm2_activation.SEED_SIZE),
            ephemeral=None if curve is None else ec.generate_private_key(curve),
        )
        return TpmChallengeResponse(
            credential=made.credential,
            encrypted_seed=made.encrypted_seed,
            ticket=ticket,
            expires_in_s=LIFETIME_S,
        )

    def enrol(self, request: TpmEnrolRequest, draft: AuditDraft) -> TpmEnrolResponse:
        """Keep the attestation key if the TPM answered the challenge.

        Raises:
            As `challenge`. NonceError: the challenge is too old, or of a CAS before it was started anew.
            BindingError: another answer.
        """
        try:
            ek, ak = self._checked(request)
            self._check_age(request.ticket)
            secret = self._secret(request.ticket, ek, ak)
            known = tpm2_activation.enrol(ek, ak, secret=secret, answer=request.secret)
        except SecuretfError as error:
            self.context.record_refusal(draft, error)
            raise
        row = TpmKeyRow(
            ek_sha256=known.ek_sha256,
            valid_until=int(known.valid_until.timestamp()),
            enrolled_at=int(self.context.clock.now().timestamp()),
        )
        draft.actor = f"tpm:{known.ek_sha256.hex()}"
        draft.details["ak_name"] = known.name.hex()

        def operation(transaction: Transaction) -> None:
            found = find(transaction, TpmRow, known.ek_sha256)
            names = [name for name in (found.keys if found else []) if name != known.name] + [known.name]
            for old in names[:-KEYS_PER_TPM]:
                transaction.delete("tpm_key", old)
            put(transaction, known.name, row)
            put(transaction, known.ek_sha256, TpmRow(keys=names[-KEYS_PER_TPM:]))

        self.context.decide(draft, operation)
        return TpmEnrolResponse(ak_name=known.name, ek_sha256=known.ek_sha256, valid_until=row.valid_until)

    def of_cas(self, request: CasTpmRequest) -> CasTpmResponse:
        """Return the keys of this CAS's TPM, and the secret of the caller's challenge.

        Raises:
            UnsupportedPlatformError: its Evidence is not an enrolled TPM's. AttesterError: the TPM refused.
        """
        if self.own is None:
            raise UnsupportedPlatformError(
                "this CAS's Evidence does not come from a TPM whose key must be enrolled",
                "attest it as its platform needs: `securetf cas attest`",
            )
        secret = None
        if request.credential is not None and request.encrypted_seed is not None:
            secret = self.own.answer(request.credential, request.encrypted_seed)
        keys = self.own.keys()
        return CasTpmResponse(
            ek_public=keys.ek_public,
            ek_certificates=keys.ek_certificates,
            ak_public=keys.ak_public,
            secret=secret,
        )

    def _checked(self, request: TpmKeys) -> tuple[CheckedEk, Public]:
        if self.trust is None:
            raise UnsupportedPlatformError(
                "this CAS trusts no manufacturer of TPMs",
                "start it with `--tpm-roots FILE`, the root certificates of your TPMs' manufacturers",
            )
        now = self.context.clock.now()
        ek = tpm2_public.parse(request.ek_public)
        issuers = self.trust.completed(request.ek_certificates, now)
        checked = tpm2_activation.check_ek(
            ek, request.ek_certificates, anchors=self.trust.anchors, now=now, issuers=issuers
        )
        return checked, tpm2_public.parse(request.ak_public)

    def _check_age(self, ticket: bytes) -> None:
        age_us = int(self.context.clock.monotonic_s() * 1e6) - int.from_bytes(ticket[:_TIME], "big")
        if not 0 <= age_us <= LIFETIME_S * 1_000_000:
            raise NonceError(f"the challenge is older than {LIFETIME_S} s, or of another CAS", _FIX)

    def _secret(self, ticket: bytes, ek: CheckedEk, ak: Public) -> bytes:
        parts = (ticket, tpm2_public.name(ek.public), tpm2_public.name(ak))
        message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self._key, message, "sha256")
