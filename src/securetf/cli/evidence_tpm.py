"""Nitro, TPM and vTPM Evidence for `securetf evidence`: its fields in plain words, and its verifiers."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from securetf.claims import Platform, VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import KnownAk, issuers_of
from securetf.errors import MalformedEvidenceError
from securetf.evidence import azure_vtpm, gcp_vtpm, nitro, tcg_event_log, tpm2, tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import HASH_NAMES, Quote, parse_quote
from securetf.verifier import certificate_path, tpm2_quote
from securetf.verifier import nitro as nitro_verifier
from securetf.verifier.gcp_vtpm import GcpVtpmVerifier
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins

SIZE_LIMIT = 1024 * 1024  # bytes; more than any kind has
STEPS: Mapping[Platform, Sequence[str]] = {
    Platform.NITRO: nitro_verifier.STEPS,
    Platform.TPM2: tpm2_quote.STEPS,
    Platform.GCP_VTPM: tpm2_quote.STEPS,
}
_AZURE_NAME = b'report"'  # of each form: report, hcl_report
COSE = (b"\x84\x44\xa1\x01\x38\x22", b"\xd2\x84\x44\xa1\x01\x38\x22")  # COSE_Sign1 with ES384


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmRequest:
    """What to verify. nonce: as given, 1 to 64 bytes. roots: PEM files. enrolments: JSON of `KnownAk`,
    and issuers' certificates and revocation lists in PEM or DER.
    """

    raw: bytes
    nonce: bytes
    roots: Sequence[bytes]
    enrolments: Sequence[bytes]
    now: datetime


def detect(raw: bytes) -> Platform | None:
    """Return the platform whose Evidence begins as `raw` does, None if it is none of these."""
    if raw.startswith(COSE):
        return Platform.NITRO
    if raw.startswith(tpm2.MAGIC):
        return Platform.TPM2
    if raw.lstrip(b" \t\r\n")[:1] == b"{" and _AZURE_NAME in raw:
        return Platform.AZURE_VTPM
    return Platform.GCP_VTPM if gcp_vtpm.begins(raw) else None


def facts(platform: Platform, raw: bytes) -> dict[str, Any]:
    """Return the fields of Evidence of one of these platforms, by name.

    Raises:
        MalformedEvidenceError: the first field that is not as it must be.
    """
    return {"platform": platform.value, "simulated": False, "size_bytes": len(raw), **_FACTS[platform](raw)}


def quote_facts(raw: bytes) -> dict[str, Any]:
    """Return the fields of a quote alone (TPMS_ATTEST), which tpm2-tools keep in a file of its own.

    Raises:
        MalformedEvidenceError: the first field that is not as it must be.
    """
    quote = parse_quote(raw)
    return {
        "kind": "TPM quote alone: no key, signature or PCR values",
        "platform": Platform.TPM2.value,
        "simulated": False,
        "size_bytes": len(raw),
        "qualified_signer": quote.qualified_signer.hex(),
        "pcrs": list(map(str, quote.selection)),
        "pcr_digest": quote.pcr_digest.hex(),
        **_quote_facts(quote, {}),
    }


def verify(request: TpmRequest, platform: Platform) -> VerifiedClaims:
    """Verify Evidence of one of these platforms but Azure.

    The nonce is held against a Nitro document's `nonce` if it has one, else against its `user_data`; against
    a quote's extra data as it is, or by `tpm2.qualifying_data` if it has 64 bytes.

    Raises:
        EvidenceError: the exact subclass names the leg that failed.
    """
    return _VERIFIERS[platform](request)


def expected_extra_data(nonce: bytes) -> bytes:
    """Return what a quote that answers to this nonce or report data carries."""
    return tpm2.qualifying_data(nonce) if len(nonce) == 64 else nonce


def _nitro_facts(raw: bytes) -> dict[str, Any]:
    document = nitro.parse(raw)
    chain = (document.certificate, *reversed(document.cabundle))
    return {
        "module_id": document.module_id,
        "timestamp_ms": document.timestamp_ms,
        **{f"pcr{index}": value.hex() for index, value in sorted(document.pcrs.items())},
        "user_data": document.user_data.hex(),
        "nonce": document.nonce.hex(),
        "public_key": document.public_key.hex(),
        "debug": not all(any(document.pcrs.get(index, b"")) for index in nitro_verifier.IMAGE_PCRS),
        "certificates": _subjects(chain),
    }


def _tpm2_facts(raw: bytes) -> dict[str, Any]:
    evidence = tpm2.parse(raw)
    return {
        **_key_facts(evidence.ak),
        **_quote_facts(evidence.quote, evidence.pcrs),
        **_log_facts(evidence.event_log),
        "certificates": _subjects(evidence.certificates),
    }


def _gcp_facts(raw: bytes) -> dict[str, Any]:
    evidence = gcp_vtpm.parse(raw)
    banks = {HASH_NAMES[one.quote.bank]: one for one in evidence.quotes}
    chosen = banks.get("sha256", evidence.quotes[0])
    return {
        **_key_facts(evidence.ak),
        "banks": list(banks),
        **_quote_facts(chosen.quote, chosen.pcrs),
        **_log_facts(evidence.event_log),
        "certificates": _subjects(evidence.certificates),
    }


def _azure_facts(raw: bytes) -> dict[str, Any]:
    evidence = azure_vtpm.parse(raw)
    kinds = {azure_vtpm.SNP: Platform.SEV_SNP, azure_vtpm.TDX: Platform.TDX}
    return {
        "hardware": kinds[evidence.hcl.report_type].value,
        "hcl_version": evidence.hcl.version,
        "hardware_report_data": evidence.hcl.runtime_hash.hex(),
        "vm_configuration": dict(evidence.hcl.vm_configuration),
        **_quote_facts(evidence.quote, evidence.pcrs),
    }


def _key_facts(ak: Public) -> dict[str, Any]:
    return {"ak_name": tpm2_public.name(ak).hex(), "ak_attributes": f"{ak.attributes:#x}"}


def _quote_facts(quote: Quote, pcrs: Mapping[int, bytes]) -> dict[str, Any]:
    return {
        "extra_data": quote.extra_data.hex(),
        **tpm2_quote.properties(quote),
        "safe": quote.safe,
        **{f"pcr{index}": value.hex() for index, value in sorted(pcrs.items())},
    }


def _log_facts(raw: bytes) -> dict[str, Any]:
    return {"events": len(tcg_event_log.parse(raw).events) if raw else 0}


def _subjects(chain: Sequence[bytes]) -> list[str]:
    with warnings.catch_warnings():  # Google's older issuers have a common name of 79 characters
        warnings.filterwarnings("ignore", message="Attribute's length must be")
        return [certificate_path.load("a certificate", der).subject.rfc4514_string() for der in chain]


def _verify_nitro(request: TpmRequest) -> VerifiedClaims:
    try:
        field = "nonce" if nitro.parse(request.raw).nonce else "user_data"
    except MalformedEvidenceError:
        field = "user_data"  # the verifier says so again, as its first step
    anchors = _joined(TrustAnchors.aws_nitro(), request.roots)
    expected = {field: request.nonce}
    return nitro_verifier.authenticate(request.raw, anchors=anchors, expected=expected, now=request.now)


def _verify_tpm2(request: TpmRequest) -> VerifiedClaims:
    return Tpm2Verifier(_origins(request), event_log_required=False).authenticate(
        request.raw,
        expected_extra_data=expected_extra_data(request.nonce),
        report_data=request.nonce,
        now=request.now,
    )


def _verify_gcp(request: TpmRequest) -> VerifiedClaims:
    return GcpVtpmVerifier(_origins(request)).authenticate(
        request.raw,
        expected_extra_data=expected_extra_data(request.nonce),
        report_data=request.nonce,
        now=request.now,
    )


def _origins(request: TpmRequest) -> KeyOrigins:
    known = [KnownAk.from_json(one) for one in request.enrolments if one.lstrip()[:1] == b"{"]
    anchors = _joined(TrustAnchors.google_tpm(), request.roots)
    issuers = issuers_of(one for one in request.enrolments if one.lstrip()[:1] != b"{")
    return KeyOrigins(anchors, {one.name: one for one in known}.get, issuers_for=lambda _: issuers)


def _joined(built_in: TrustAnchors, roots: Sequence[bytes]) -> TrustAnchors:
    pins = built_in.spki_sha256.union(*(TrustAnchors.chosen(pem).spki_sha256 for pem in roots))
    return TrustAnchors(spki_sha256=pins, development=False)


_FACTS: dict[Platform, Callable[[bytes], dict[str, Any]]] = {
    Platform.NITRO: _nitro_facts,
    Platform.TPM2: _tpm2_facts,
    Platform.GCP_VTPM: _gcp_facts,
    Platform.AZURE_VTPM: _azure_facts,
}
_VERIFIERS: dict[Platform, Callable[[TpmRequest], VerifiedClaims]] = {
    Platform.NITRO: _verify_nitro,
    Platform.TPM2: _verify_tpm2,
    Platform.GCP_VTPM: _verify_gcp,
}
