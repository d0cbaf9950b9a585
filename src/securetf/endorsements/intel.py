"""DCAP collateral from Intel's Provisioning Certification Service, API v4, or from a PCCS.

Source: Intel SGX and Intel TDX Provisioning Certification Service, "API documentation v4": `tcb`,
`qe/identity`, `pckcrl`; Intel SGX PCCS API for `rootcacrl`. Checked here is the form; the verifier checks
signatures, chains and dates.
"""

import json
import re
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.endorsements.dcap import SIGNATURE_SIZE, Endorsements, strict_json
from securetf.endorsements.download import Answer, Downloader
from securetf.endorsements.needs import DcapNeed, Tee
from securetf.endorsements.refusals import EndorsementSourceError
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import EndorsementError

DOCUMENT_LIMIT, CRL_LIMIT = 128 * 1024, 128 * 1024  # bytes; genuine ones have up to 12 KB and 1 KB
_CHAIN = re.compile(
    r"(-----BEGIN CERTIFICATE-----\r?\n[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----\r?\n?){2}\Z"
)
_IDS = {Tee.SGX: ("SGX", "QE"), Tee.TDX: ("TDX", "TD_QE")}
_FIX = "use Intel's own service or a PCCS with API v4, which caches it"


def fetch(
    downloader: Downloader, *, base: str, root_crl: str | None, need: DcapNeed, update: str
) -> Endorsements:
    """Return the collateral of one kind of platform.

    base: address of the service, without a slash at its end. root_crl: where the root CA's list is, None: at
    the service. update: `standard` or `early`.

    Raises:
        EndorsementSourceError: the service did not answer, or not in the form of API v4, or with another
        platform's documents, or with documents of two TCB recoveries.
    """
    api = f"{base}/{need.tee}/certification/v4"
    sgx_api = f"{base}/sgx/certification/v4"  # both TEEs have the same PCKs
    crl_url = f"{sgx_api}/pckcrl?ca={need.ca}&encoding=der"
    tcb_url = f"{api}/tcb?fmspc={need.fmspc}&update={update}"
    qe_url = f"{api}/qe/identity?update={update}"
    root_url = root_crl or f"{sgx_api}/rootcacrl"
    crl = downloader.get(crl_url, limit=CRL_LIMIT)
    tcb = downloader.get(tcb_url, limit=DOCUMENT_LIMIT)
    qe = downloader.get(qe_url, limit=DOCUMENT_LIMIT)
    root = downloader.get(root_url, limit=CRL_LIMIT)
    tcb_info, tcb_signature = _document(tcb_url, tcb.body, "tcbInfo")
    qe_identity, qe_signature = _document(qe_url, qe.body, "enclaveIdentity")
    _check(need, tcb_url, tcb_info, qe_url, qe_identity)
    return Endorsements(
        pck_crl_issuer_chain=_chain(crl_url, crl, "sgx-pck-crl-issuer-chain"),
        root_ca_crl=_crl(root_url, root.body),
        pck_crl=_crl(crl_url, crl.body),
        tcb_info_issuer_chain=_chain(tcb_url, tcb, "tcb-info-issuer-chain"),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_signature,
        qe_identity_issuer_chain=_chain(qe_url, qe, "sgx-enclave-identity-issuer-chain"),
        qe_identity=qe_identity,
        qe_identity_signature=qe_signature,
    )


def _document(url: str, body: bytes, name: str) -> tuple[str, bytes]:
    """Return the exact text of the signed document, and the signature, from `{"NAME":…,"signature":"…"}`."""
    try:
        text = body.decode()
        strict_json(text, url)
        start = re.match(rf'\s*{{\s*"{name}"\s*:\s*', text)
        _, end = json.JSONDecoder().raw_decode(text, start.end() if start else len(text))
        rest = re.fullmatch(r'\s*,\s*"signature"\s*:\s*"([0-9a-fA-F]{128})"\s*}\s*', text[end:])
        if start is None or rest is None:
            raise ValueError("other names or another order")
    except (ValueError, EndorsementError) as error:
        raise EndorsementSourceError(f"{url} gives no {name} with its signature: {error}", _FIX) from None
    signature = bytes.fromhex(rest[1])
    if len(signature) != SIGNATURE_SIZE:
        raise AssertionError(signature)
    return text[start.end() : end], signature


def _check(need: DcapNeed, tcb_url: str, tcb_info: str, qe_url: str, qe_identity: str) -> None:
    tcb, qe = strict_json(tcb_info, tcb_url), strict_json(qe_identity, qe_url)
    tcb_id, qe_id = _IDS[need.tee]
    try:
        found = tcb["id"], str(tcb["fmspc"]).upper(), qe["id"]
        numbers = tcb["tcbEvaluationDataNumber"], qe["tcbEvaluationDataNumber"]
    except (KeyError, TypeError):
        raise EndorsementSourceError(f"{tcb_url} or {qe_url} gives documents of another form", _FIX) from None
    if found != (tcb_id, need.fmspc, qe_id):
        raise EndorsementSourceError(
            f"{tcb_url} gives {found[0]} {found[1]} and {found[2]}, "
            f"expected {tcb_id} {need.fmspc} and {qe_id}",
            _FIX,
        )
    if numbers[0] != numbers[1]:
        raise EndorsementSourceError(
            f"{tcb_url} has tcbEvaluationDataNumber {numbers[0]}, {qe_url} has {numbers[1]}: "
            "documents of two TCB recoveries",
            "try again later: the service is being updated",
        )


def _chain(url: str, answer: Answer, header: str) -> str:
    """Return the issuer chain of a header: two certificates in PEM, URL-encoded."""
    text = unquote(answer.headers.get(header) or answer.headers.get(f"sgx-{header}") or "", errors="replace")
    if not _CHAIN.fullmatch(text):
        raise EndorsementSourceError(f"{url} gives no issuer chain of two certificates in {header}", _FIX)
    return text


def _crl(url: str, body: bytes) -> bytes:
    """Return a revocation list in DER; a PCCS gives hex, others PEM."""
    try:
        if body.lstrip()[:5] == b"-----":
            return x509.load_pem_x509_crl(body).public_bytes(Encoding.DER)
        raw = body if body[:1] == b"\x30" and body[1:2] >= b"\x80" else bytes.fromhex(body.decode("ascii"))
        return x509.load_der_x509_crl(raw).public_bytes(Encoding.DER)
    except UNREADABLE as error:
        raise EndorsementSourceError(f"{url} gives no revocation list: {error}", _FIX) from None
