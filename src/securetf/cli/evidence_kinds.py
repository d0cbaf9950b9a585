"""What kind of Evidence a file holds, and its fields in plain words. Nothing here is authenticated."""

import base64
import re
from dataclasses import fields
from typing import Any

from securetf.claims import Platform
from securetf.cli import evidence_tpm
from securetf.endorsements.trust import SIMULATION_MARK
from securetf.errors import BindingError, MalformedEvidenceError
from securetf.evidence import dcap, ra_tls, sev_snp_certificates, sgx, tdx
from securetf.evidence.sev_snp import VERSIONS, SnpReport, SnpTcb
from securetf.verifier import pck

SIZE_LIMIT = evidence_tpm.SIZE_LIMIT  # bytes; more than any kind has
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_TPM_QUOTE = bytes.fromhex("ff5443478018")  # TPMS_ATTEST of a quote, as tpm2_quote writes it (-m)
_SNP_MESSAGE = (1184).to_bytes(4, "little")  # size of the report, after a status of 0
_GOTPM_TEXT = b"ak_pub:"
_TDX_REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_TDX_MORE = ("mr_config_id", "mr_owner", "mr_owner_config", "mr_seam", "tee_tcb_svn", "td_attributes", "xfam")
_TDX_15 = ("tee_tcb_svn2", "mr_service_td")
_SGX_BYTES = ("attributes", "misc_select", "cpu_svn", "config_id", "isv_ext_prod_id", "isv_family_id")
_SNP_BYTES = (
    *("host_data", "id_key_digest", "author_key_digest", "family_id", "image_id"),
    *("report_id", "chip_id"),
)
_SNP_NUMBERS = ("guest_svn", "vmpl")
_SNP_TCBS = ("reported_tcb", "committed_tcb", "launch_tcb", "current_tcb")


def detect(raw: bytes) -> Platform:
    """Return the platform whose Evidence begins as `raw` does; a simulation looks like TDX here.

    Raises:
        MalformedEvidenceError: none does.
    """
    if len(raw) < 8:
        raise MalformedEvidenceError(
            f"Evidence ends inside its header: {len(raw)} bytes",
            "name a file that holds a raw quote or report",
        )
    other = evidence_tpm.detect(raw)
    if other is not None:
        return other
    version, tee = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
    if version in VERSIONS:
        return Platform.SEV_SNP
    if version & 0xFFFF == sgx.VERSION:
        return Platform.SGX
    if version & 0xFFFF in {4, 5} and tee == tdx.TEE_TDX:
        return Platform.TDX
    raise MalformedEvidenceError(
        f"bytes {raw[:8].hex()} begin no TDX quote v4 or v5, SGX quote v3, SEV-SNP report v2, v3 or v5, "
        "Nitro document, TPM Evidence, or vTPM Evidence of Azure or Google",
        _fix(raw),
    )


def facts(raw: bytes) -> dict[str, Any]:
    """Return the fields of any kind of Evidence, by name.

    Raises:
        MalformedEvidenceError: the first field that is not as it must be.
    """
    if 0 not in raw[:8] and _PEM.search(raw):  # quotes and reports have a zero there, and PEM inside
        return _ra_tls(raw)
    if raw.startswith(_TPM_QUOTE):
        return {"authenticated": False, **evidence_tpm.quote_facts(raw)}
    return {"authenticated": False, **_fields(raw)}


def simulated(pck_chain: bytes) -> bool:
    """Return whether a PCK chain names itself a simulation."""
    return any(SIMULATION_MARK in subject for subject in _subjects(pck_chain))


def _fix(raw: bytes) -> str:
    """Return what to do about a file of a known tool that is not Evidence as it is."""
    if raw.startswith(_TPM_QUOTE):
        return (
            "a quote alone shows nothing without its key, signature and PCR values: collect TPM Evidence "
            "with `securetf evidence collect --attester tpm2`; `securetf evidence show` prints its fields"
        )
    if raw[:4] == bytes(4) and raw[4:8] == _SNP_MESSAGE:
        return "this is the firmware's message: cut off its first 32 bytes, and what follows the report"
    if raw.startswith(_GOTPM_TEXT):
        return "make it with `gotpm attest --format binarypb`"
    if raw.lstrip()[:1] == b"{":
        return "this is another tool's JSON: decode the quote in it (base64 -d) to a file, and name that"
    return "name a file that holds one of these, as the platform gave it"


def _ra_tls(raw: bytes) -> dict[str, Any]:
    """Return what a certificate in PEM says: the claims about its key, then the Evidence in it."""
    blocks = _PEM.findall(raw)
    try:
        (der,) = (base64.b64decode(block) for block in blocks)
    except ValueError:
        raise MalformedEvidenceError(
            f"the file has {len(blocks)} certificates, or one that is not base64",
            "name a file with one certificate",
        ) from None
    certificate = ra_tls.parse(der)
    try:
        expected: str | None = ra_tls.expected_report_data_of_any_age(certificate).hex()
    except BindingError:
        expected = None
    return {
        "authenticated": False,
        "ra_tls_pubkey_hash": certificate.pubkey_hash.hex(),
        "ra_tls_nonce": None if certificate.nonce is None else certificate.nonce.hex(),
        "ra_tls_key_matches": expected is not None,
        "ra_tls_expected_report_data": expected,
        **_fields(certificate.evidence),
    }


def _tdx(raw: bytes) -> dict[str, Any]:
    quote = tdx.parse(raw)
    body = quote.body
    development = simulated(quote.pck_chain)
    more = _TDX_MORE if body.mr_service_td is None else (*_TDX_MORE, *_TDX_15)
    return {
        "platform": (Platform.INSECURE_SIMULATION if development else Platform.TDX).value,
        "simulated": development,
        "version": quote.version,
        "size_bytes": len(tdx.encode(quote)),
        **{name: getattr(body, name).hex() for name in _TDX_REGISTERS},
        "report_data": body.report_data.hex(),
        **{name: getattr(body, name).hex() for name in more},
        "debug": bool(int.from_bytes(body.td_attributes, "little") & 1),
        **_chain(quote),
    }


def _sgx(raw: bytes) -> dict[str, Any]:
    quote = sgx.parse(raw)
    body = quote.body
    return {
        "platform": Platform.SGX.value,
        "simulated": simulated(quote.pck_chain),
        "version": sgx.VERSION,
        "size_bytes": len(sgx.encode(quote)),
        "mr_enclave": body.mr_enclave.hex(),
        "mr_signer": body.mr_signer.hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "config_svn": body.config_svn,
        "report_data": body.report_data.hex(),
        **{name: getattr(body, name).hex() for name in _SGX_BYTES},
        "debug": bool(body.attributes[0] & 2),
        **_chain(quote),
    }


def _sev_snp(raw: bytes) -> dict[str, Any]:
    evidence = sev_snp_certificates.parse(raw)
    report: SnpReport = evidence.report
    return {
        "platform": Platform.SEV_SNP.value,
        "simulated": False,
        "version": report.version,
        "size_bytes": len(raw),
        "product": "Milan or Genoa" if report.product is None else report.product.value,
        "signing_key": report.signing_key.value,
        "measurement": report.measurement.hex(),
        "report_data": report.report_data.hex(),
        **{name: getattr(report, name).hex() for name in _SNP_BYTES},
        **{name: getattr(report, name) for name in _SNP_NUMBERS},
        "policy": f"{report.policy:#x}",
        "debug": report.debug,
        "migration_agent_allowed": report.migration_agent_allowed,
        "smt_allowed": report.smt_allowed,
        "platform_info": f"{report.platform_info:#x}",
        **{name: _numbers(getattr(report, name)) for name in _SNP_TCBS},
        "firmware": ".".join(map(str, report.current_version)),
        "certificates": sorted(evidence.certificates),
    }


_READERS = {Platform.TDX: _tdx, Platform.SGX: _sgx, Platform.SEV_SNP: _sev_snp}


def _fields(raw: bytes) -> dict[str, Any]:
    platform = detect(raw)
    reader = _READERS.get(platform)
    return evidence_tpm.facts(platform, raw) if reader is None else reader(raw)


def _numbers(tcb: SnpTcb) -> dict[str, int]:
    values = {entry.name: getattr(tcb, entry.name) for entry in fields(tcb)}
    return {name: value for name, value in values.items() if value is not None}


def _chain(quote: dcap.DcapQuote) -> dict[str, Any]:
    return {"fmspc": pck.fmspc(quote.pck_chain), "certificates": _subjects(quote.pck_chain)}


def _subjects(pck_chain: bytes) -> list[str]:
    return [
        certificate.subject.rfc4514_string()
        for certificate in pck.load_pem(pck_chain.removesuffix(b"\0").decode("latin-1"))
    ]
