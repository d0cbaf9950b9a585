"""The first look at a CAS: its Evidence for our nonce, bound to the key that we meet."""

import hashlib
import os
from collections.abc import Callable, Mapping
from datetime import datetime

from securetf.appraisal import Policy, appraise
from securetf.cas_client.answers import decode_answer, refusal_of
from securetf.cas_client.transport import Transport
from securetf.cas_client.trust import CasTrust
from securetf.claims import Evidence, Platform, code_register
from securetf.endorsements import Endorsements
from securetf.errors import CasIdentityError, UnsupportedPlatformError
from securetf.evidence import binding
from securetf.verifier import Verifier, verify
from securetf.wire import CasEvidenceRequest, CasEvidenceResponse, encode

_NONCE_SIZE = 32  # bytes
_OK = 200


def attest_cas(
    url: str,
    *,
    verifiers_for: Callable[[Endorsements], Mapping[Platform, Verifier]],
    policy: Policy,
    now: datetime,
    deadline_s: float = 10.0,
) -> CasTrust:
    """Verify and appraise a CAS; return what to pin.

    verifiers_for: given the collateral that the CAS sent (authenticated by the verifier, not before), the
    verifiers that the caller trusts. policy: the measurements and TCB that the caller accepts of a CAS. now:
    UTC.

    Raises:
        CasUnreachableError, CasProtocolError: no answer, or not of the form. CasIdentityError: the key in the
        Evidence is not the key of the connection. EvidenceError, AppraisalError: the CAS did not prove what
        it must.
    """
    nonce = os.urandom(_NONCE_SIZE)
    answer, spki = _evidence(url, nonce, deadline_s)
    claims = verify(
        Evidence(_platform(answer.platform), answer.evidence),
        verifiers=verifiers_for(Endorsements.from_json(answer.endorsements)),
        expected_report_data=binding.report_data(
            role=binding.Role.CAS,
            nonce=nonce,
            tls_spki=spki,
            hpke_public_key=answer.hpke_public_key + answer.audit_public_key,
            cas_spki=spki,
            exporter=None,
            manifest_hash=None,
        ),
        now=now,
    )
    result = appraise(claims, policy=policy, rtmr3=code_register({}), now=now)
    return CasTrust(
        version=1,
        url=url.rstrip("/"),
        spki_sha256=hashlib.sha256(spki).hexdigest(),
        audit_public_key=answer.audit_public_key.hex(),
        hpke_public_key=answer.hpke_public_key,
        platform=claims.platform.value,
        simulated=claims.simulated,
        measurement=claims.measurement.hex(),
        verified=[
            f"1. TLS 1.3; the CAS holds the key {hashlib.sha256(spki).hexdigest()}",
            f"2. {claims.platform.value} Evidence: signatures, certificate chain and collateral hold",
            "3. report data binds our nonce, the TLS key, the HPKE key and the audit key under the role cas",
            f"4. TCB status {claims.tcb_status} is accepted",
            f"5. measurement {claims.measurement.hex()} is one that we gave",
            f"6. policy {result.policy_id}: {result.status}",
        ],
        verified_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _evidence(url: str, nonce: bytes, deadline_s: float) -> tuple[CasEvidenceResponse, bytes]:
    """Ask for Evidence; return it with the key of the connection it came over."""
    transport = Transport(url, None, deadline_s=deadline_s)
    try:
        body = encode(CasEvidenceRequest(nonce=nonce))
        headers = {"content-type": "application/json"}
        status, raw = transport.send("POST", "/v1/evidence", body, headers, repeatable=True)
    finally:
        transport.close()
    if status != _OK:
        raise refusal_of(status, raw)
    answer = decode_answer(raw, CasEvidenceResponse)
    if answer.tls_spki != transport.seen_spki:
        raise CasIdentityError(
            "the Evidence is for another TLS key than that of the connection: someone stands between",
            "connect to the CAS itself, not through something that terminates TLS",
        )
    return answer, transport.seen_spki


def _platform(name: str) -> Platform:
    try:
        return Platform(name)
    except ValueError:
        raise UnsupportedPlatformError(
            f"the CAS's Evidence is of platform {name[:32]!r}", "use a release that knows this platform"
        ) from None
