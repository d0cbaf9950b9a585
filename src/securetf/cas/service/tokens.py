"""The EAR token of a workload that has just proved itself."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from securetf.appraisal import AttestationResult, ear
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.identity import CasIdentity
from securetf.identity import SpiffeId
from securetf.wire import AttestRequest


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token, and what the audit log keeps of it."""

    text: str
    token_id: str

    def note(self, draft: AuditDraft) -> None:
        """Put `jti` and digest into the entry of the decision to hand it out: receipts name both."""
        draft.details["ear_jti"] = self.token_id
        draft.details["ear_sha256"] = hashlib.sha256(self.text.encode()).hexdigest()


def issue_token(
    identity: CasIdentity,
    key: ear.SigningKey,
    request: AttestRequest,
    results: Sequence[AttestationResult],
    tls_key: EllipticCurvePublicKey,
) -> IssuedToken:
    """Return the token about `request`, whose Evidence was appraised as `results` and binds `tls_key`.

    key: the identity's token key, ready to sign.

    It counts for nothing until the caller's decision has handed it out.
    """
    domain, token_id = identity.spki_sha256, os.urandom(16).hex()
    text = ear.issue(
        results[0],
        key=key,
        issuer=f"securetf-cas:{domain}",
        audience=f"securetf-session:{request.session}",
        subject=str(SpiffeId(domain, request.session, request.workload, request.instance)),
        nonce=request.nonce,
        confirmation_jwk=ear.confirmation_jwk(tls_key),
        binding=ear.Binding(request.binding),
        token_id=token_id,
        now=results[0].appraised_at,
        others=results[1:],
    )
    return IssuedToken(text, token_id)
