"""Intel SGX quotes v3 (DCAP) as exact bytes (Intel SGX ECDSA Quote Library API, appendix A.4). Little endian.

Strict: each declared length must fit its part exactly, reserved bytes are zero, and after the declared end
only zero bytes may follow. `encode` gives the canonical bytes; nothing is keyed on the raw ones.
"""

import struct
from dataclasses import dataclass

from securetf.errors import MalformedEvidenceError
from securetf.evidence.dcap import (
    AS_GIVEN,
    HEADER_SIZE,
    KEY_TYPE_ECDSA_P256,
    QE_VENDOR_INTEL,
    REPORT_SIZE,
    check_kind,
    check_padding,
    encode_signature_data,
    open_quote,
    parse_signature_data,
)

VERSION = 3
TEE_SGX = 0  # reserved in v3, the TEE type in later versions

_HEADER = struct.Struct("<HHIHH16s20s")
# Intel SDM volume 3D, table 38-21 ("REPORT"): reserved are 12, 32, 32 and 42 bytes.
_BODY = struct.Struct("<16s4s12s16s16s32s32s32s32s64sHHH42s16s64s")
_NAMES = (
    *("cpu_svn", "misc_select", "", "isv_ext_prod_id", "attributes", "mr_enclave", "", "mr_signer", ""),
    *("config_id", "isv_prod_id", "isv_svn", "config_svn", "", "isv_family_id", "report_data"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxReport:
    """The body of a quote: an enclave's report. Fields as Intel names them.

    mr_enclave: SHA-256 of the enclave's initial contents and layout. mr_signer: SHA-256 of its signer's key.
    attributes: flags (8 bytes) and XFRM (8). isv_*, config_*: numbers and ids that the signer or the host
    gave. report_data: 64 bytes, the enclave's choice.
    """

    cpu_svn: bytes
    misc_select: bytes
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxQuote:
    """One quote as received; nothing is authenticated until `verifier.sgx` returns.

    qe_svn, pce_svn: of the machine's quoting and provisioning enclaves, as they say. user_data: 20 bytes
    of the quoting enclave. The rest is that of `dcap.DcapQuote`.
    """

    qe_svn: int
    pce_svn: int
    user_data: bytes
    body: SgxReport
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes


def parse(raw: bytes) -> SgxQuote:
    """Read one quote v3 with a PCK chain inside (certification data 5).

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    reader = open_quote(raw)
    version, key_type, tee, qe_svn, pce_svn, vendor, user_data = _HEADER.unpack(
        reader.take("header", HEADER_SIZE)
    )
    if version != VERSION:
        raise MalformedEvidenceError(f"quote version is {version}, expected 3", AS_GIVEN)
    check_kind(key_type, tee, vendor, TEE_SGX, "SGX")
    body = parse_report(reader.take("body", REPORT_SIZE))
    signature_data = reader.sized("signature data")
    check_padding(reader)
    signed = parse_signature_data(signature_data, nested=False)
    return SgxQuote(qe_svn=qe_svn, pce_svn=pce_svn, user_data=user_data, body=body, **signed)


def encode(quote: SgxQuote) -> bytes:
    """Return the canonical bytes of a quote: no padding. `parse(encode(quote)) == quote`."""
    return signed_bytes(quote) + encode_signature_data(quote, nested=False)


def signed_bytes(quote: SgxQuote) -> bytes:
    """Return header and body, the bytes that `signature` covers."""
    header = _HEADER.pack(
        VERSION, KEY_TYPE_ECDSA_P256, TEE_SGX, quote.qe_svn, quote.pce_svn, QE_VENDOR_INTEL, quote.user_data
    )
    return header + _BODY.pack(*(getattr(quote.body, name) if name else b"" for name in _NAMES))


def parse_report(raw: bytes) -> SgxReport:
    """Read the body (384 bytes) of an enclave's report, of a quote or a local one (Intel SDM volume 3D,
    "REPORT").

    Raises:
        MalformedEvidenceError: another size, or reserved bytes that are not zero.
    """
    if len(raw) != REPORT_SIZE:
        raise MalformedEvidenceError(
            f"the enclave's report has {len(raw)} bytes, expected {REPORT_SIZE}", AS_GIVEN
        )
    parts = list(zip(_NAMES, _BODY.unpack(raw), strict=True))
    if any(any(part) for name, part in parts if not name):
        raise MalformedEvidenceError("reserved bytes of the enclave's report are not zero", AS_GIVEN)
    return SgxReport(**{name: part for name, part in parts if name})
