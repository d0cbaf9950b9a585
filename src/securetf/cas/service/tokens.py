"""The EAR token of a workload that has just proved itself."""

import os
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from securetf.appraisal import AttestationResult, ear
from securetf.cas.service.identity import CasIdentity
from securetf.identity import SpiffeId
from securetf.wire import AttestRequest


def issue_token(
    identity: CasIdentity,
    request: AttestRequest,
    results: Sequence[AttestationResult],
    tls_key: EllipticCurvePublicKey,
) -> str:
    """Return the token about `request`, whose Evidence was appraised as `results` and binds `tls_key`."""
    domain = identity.spki_sha256
    return ear.issue(
        results[0],
        key=identity.token_key,
        issuer=f"securetf-cas:{domain}",
        audience=f"securetf-session:{request.session}",
        subject=str(SpiffeId(domain, request.session, request.workload, request.instance)),
        nonce=request.nonce,
        confirmation_jwk=ear.confirmation_jwk(tls_key),
        binding=ear.Binding.KEY,
        token_id=os.urandom(16).hex(),
        now=results[0].appraised_at,
        others=results[1:],
    )
