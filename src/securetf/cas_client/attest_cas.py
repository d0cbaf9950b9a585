"""The first look at a CAS: its Evidence for our nonce, bound to the key that we meet."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from securetf.appraisal import AttestationResult, appraise_all
from securetf.appraisal.policy import AnyPolicy
from securetf.cas_client.answers import decode_answer, refusal_of
from securetf.cas_client.tpm_of_cas import TpmIssuers
from securetf.cas_client.transport import Line, Transport
from securetf.cas_client.trust import CasTrust
from securetf.claims import Evidence, Platform, code_register
from securetf.endorsements import Endorsements
from securetf.errors import CasIdentityError, UnsupportedPlatformError
from securetf.evidence import binding, tpm2
from securetf.verifier import Verifier, verify_composite
from securetf.wire import CasEvidenceRequest, CasEvidenceResponse, encode
from securetf.wire.messages import Message
from securetf.wire.tpm import CasTpmRequest, CasTpmResponse

_M = TypeVar("_M", bound=Message)

_NONCE_SIZE = 32  # bytes
_OK = 200
# What a CAS on hardware sends: its clients have endorsements of their own.
_NONE = Endorsements(
    pck_crl_issuer_chain="",
    root_ca_crl=b"",
    pck_crl=b"",
    tcb_info_issuer_chain="",
    tcb_info="",
    tcb_info_signature=b"",
    qe_identity_issuer_chain="",
    qe_identity="",
    qe_identity_signature=b"",
)


def attest_cas(
    url: str,
    *,
    verifiers_for: Callable[[Endorsements], Mapping[Platform, Verifier]],
    policy: AnyPolicy | Mapping[str, AnyPolicy],
    now: datetime,
    deadline_s: float = 10.0,
    require: Sequence[str] = (),
    tpm: TpmIssuers | None = None,
) -> CasTrust:
    """Verify and appraise a CAS; return what to pin.

    verifiers_for: given the collateral that the CAS sent (authenticated by the verifier, not before; empty
    parts where it sent none), the verifiers that the caller trusts. policy: the measurements and TCB that the
    caller accepts of a CAS, or one for each platform by name. now: UTC. require: platforms that all must be
    there. tpm: whose TPM the CAS may have; it is then challenged to show that its key lives in one of these.

    Raises:
        CasUnreachableError, CasProtocolError: no answer, or not of the form. CasIdentityError: the key in the
        Evidence is not the key of the connection. EvidenceError, AppraisalError: the CAS did not prove what
        it must.
    """
    nonce = os.urandom(_NONCE_SIZE)
    transport = Transport(url, None, deadline_s=deadline_s)
    try:
        answer, exporter = _evidence(transport, nonce)
        spki = transport.seen_spki
        verifiers = dict(verifiers_for(_endorsements(answer.endorsements)))
        if tpm is not None and _needs_enrolment(answer):
            verifiers[Platform.TPM2] = tpm.verifier(lambda request: _tpm(transport, request), now)
    finally:
        transport.close()
    others = tuple(Evidence(_platform(name), raw) for name, raw in answer.submods.items())
    claims = verify_composite(
        Evidence(_platform(answer.platform), answer.evidence, others),
        verifiers=verifiers,
        expected_report_data=binding.report_data(
            role=binding.Role.CAS,
            nonce=nonce,
            tls_spki=spki,
            hpke_public_key=answer.hpke_public_key + answer.audit_public_key,
            cas_spki=spki,
            exporter=exporter,
            manifest_hash=None,
        ),
        now=now,
    )
    policies = policy if isinstance(policy, Mapping) else {claims[0].platform.value: policy}
    results = appraise_all(claims, policies=policies, require=require, rtmr3=code_register({}), now=now)
    return CasTrust(
        version=1,
        url=url.rstrip("/"),
        spki_sha256=hashlib.sha256(spki).hexdigest(),
        audit_public_key=answer.audit_public_key.hex(),
        hpke_public_key=answer.hpke_public_key,
        platform=claims[0].platform.value,
        simulated=any(one.simulated for one in claims),
        measurement=claims[0].measurement.hex(),
        verified=_said(results, spki),
        verified_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
    )


def _said(results: Sequence[AttestationResult], spki: bytes) -> list[str]:
    lines = [f"TLS 1.3; the CAS holds the key {hashlib.sha256(spki).hexdigest()}"]
    for result in results:
        claims = result.claims
        lines += [
            f"{claims.platform.value} Evidence: signatures, certificate chain and collateral hold",
            "report data binds our nonce, this TLS session, and the CAS's TLS, HPKE and audit keys",
            f"TCB status {claims.tcb_status} is accepted",
            f"measurement {claims.measurement.hex()} is one that we gave",
            f"policy {result.policy_id}: {result.status}",
        ]
    return [f"{number}. {line}" for number, line in enumerate(lines, start=1)]


def _evidence(transport: Transport, nonce: bytes) -> tuple[CasEvidenceResponse, bytes]:
    """Ask for Evidence for the key of the connection; return it and the connection's exporter."""
    request = CasEvidenceRequest(nonce=nonce, binding="session")
    with transport.line() as line:
        answer = _ask(transport, "/v1/evidence", request, CasEvidenceResponse, line)
        exporter = line.exporter(binding.EXPORTER_LABEL)
    if answer.tls_spki != transport.seen_spki:
        raise CasIdentityError(
            "the Evidence is for another TLS key than that of the connection: someone stands between",
            "connect to the CAS itself, not through something that terminates TLS",
        )
    return answer, exporter


def _needs_enrolment(answer: CasEvidenceResponse) -> bool:
    """Say whether the Evidence is of a TPM whose attestation key nobody certified."""
    given = {**answer.submods, answer.platform: answer.evidence}.get(Platform.TPM2.value)
    return given is not None and not tpm2.parse(given).certificates


def _tpm(transport: Transport, request: CasTpmRequest) -> CasTpmResponse:
    return _ask(transport, "/v1/evidence/tpm", request, CasTpmResponse)


def _ask(
    transport: Transport, target: str, message: Message, answer: type[_M], over: Line | None = None
) -> _M:
    headers = {"content-type": "application/json"}
    status, raw = transport.send("POST", target, encode(message), headers, repeatable=True, over=over)
    if status != _OK:
        raise refusal_of(status, raw)
    return decode_answer(raw, answer)


def _endorsements(text: str) -> Endorsements:
    return Endorsements.from_json(text) if text else _NONE


def _platform(name: str) -> Platform:
    try:
        return Platform(name)
    except ValueError:
        raise UnsupportedPlatformError(
            f"the CAS's Evidence is of platform {name[:32]!r}", "use a release that knows this platform"
        ) from None
