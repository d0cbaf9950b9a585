"""Evidence of Azure confidential VMs: a hardware report that binds a vTPM's key, and a quote by that key.

Sources: Microsoft, "Guest attestation for confidential VMs: HCL report" (header, hardware report, runtime
data); the JSON forms 0, 1 and 2 of the Confidential Containers project's Azure attesters
(azure-cvm-tooling), which carry it.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from securetf.errors import MalformedEvidenceError
from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import (
    DIGEST_SIZES,
    PCR_COUNT,
    RSASSA,
    SHA256,
    Quote,
    Signature,
    parse_quote,
)

EVIDENCE_SIZE_LIMIT = 128 * 1024  # bytes of JSON; genuine ones have 13 to 37 KB
HCL_SIZE_LIMIT = 16 * 1024  # bytes; genuine ones have 2600, padded with zeros
HARDWARE_REPORT_SIZE = 1184  # bytes; an SNP report, or a TDREPORT and zeros
SNP, TDX = 2, 4  # type of the hardware report
AK_ID = "HCLAkPub"
USER_DATA_SIZE = 64  # bytes

_HEADER_SIZE, _RUNTIME_HEADER_SIZE = 32, 20
_HCL_MAGIC = b"HCLA"
_HCL_VERSIONS = {1, 2}
_REQUEST_TYPE = 2
_HASHES = {1: "sha256", 2: "sha384", 3: "sha512"}
_FIX = "pass the Evidence exactly as the Azure attester gave it"


@dataclass(frozen=True, slots=True, kw_only=True)
class HclReport:
    """The report in NV index 0x01400001, as received.

    report_type: SNP or TDX. hardware_report: 1184 bytes. runtime: the exact JSON whose hash the hardware
    report carries. runtime_hash: that hash, zero-padded to the 64 bytes of report data. modulus, exponent: of
    the vTPM's key. user_data: what the guest had asked to put into the runtime data, 64 bytes, or empty.
    """

    version: int
    report_type: int
    hardware_report: bytes = field(repr=False)
    runtime: bytes = field(repr=False)
    runtime_hash: bytes
    modulus: bytes = field(repr=False)
    exponent: int
    user_data: bytes
    vm_configuration: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureEvidence:
    """As received; nothing is authenticated until `verifier.azure_vtpm` returns.

    form: 0 to 2; only 2 promises that the runtime data has the quote's extra data, too. pcrs: index to value
    of the SHA-256 bank. td_quote: of TDX machines. vcek: of SNP machines, PEM in form 0, DER in later ones.
    """

    form: int
    hcl: HclReport
    quote: Quote
    signature: Signature
    pcrs: Mapping[int, bytes]
    td_quote: bytes = field(repr=False)
    vcek: bytes = field(repr=False)


def parse(raw: bytes) -> AzureEvidence:
    """Read one JSON envelope of form 0 (numbers), or 1 or 2 (hexadecimal and base64url).

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    found = _json(raw, EVIDENCE_SIZE_LIMIT, "Azure Evidence")
    if not isinstance(found, dict):
        _refuse("Azure Evidence is not an object")
    if "version" not in found:
        return _parse_v0(found)
    return _parse_later(found)


def parse_hcl(raw: bytes) -> HclReport:
    """Read one HCL report: every declared length exact, only zeros after the declared end.

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    start = _HEADER_SIZE + HARDWARE_REPORT_SIZE
    runtime_start = start + _RUNTIME_HEADER_SIZE
    if not runtime_start < len(raw) <= HCL_SIZE_LIMIT:
        _refuse(f"the HCL report has {len(raw)} bytes, expected {runtime_start + 1} to {HCL_SIZE_LIMIT}")
    magic, version, size, request, status = raw[:4], *(_number(raw, offset) for offset in (4, 8, 12, 16))
    if magic != _HCL_MAGIC or version not in _HCL_VERSIONS or request != _REQUEST_TYPE or status:
        _refuse("the HCL report has another magic, version or request type, or a status other than 0")
    if any(raw[20:_HEADER_SIZE]):
        _refuse("reserved bytes of the HCL report are not zero")
    data_size, data_version, kind, digest, variable = (_number(raw, start + 4 * part) for part in range(5))
    if data_version != 1 or kind not in {SNP, TDX} or digest not in _HASHES:
        _refuse(
            f"the HCL report has runtime data version {data_version}, report type {kind} and hash {digest}"
        )
    end = runtime_start + variable
    if data_size != variable + _RUNTIME_HEADER_SIZE or size != end or end > len(raw) or any(raw[end:]):
        _refuse("the HCL report's declared lengths do not fit, or something follows its end")
    runtime = raw[runtime_start:end]
    claims = _json(runtime, HCL_SIZE_LIMIT, "runtime data")
    modulus, exponent = _ak(claims)
    return HclReport(
        version=version,
        report_type=kind,
        hardware_report=raw[_HEADER_SIZE:start],
        runtime=runtime,
        runtime_hash=hashlib.new(_HASHES[digest], runtime).digest().ljust(64, b"\0"),
        modulus=modulus,
        exponent=exponent,
        user_data=_user_data(claims),
        vm_configuration=MappingProxyType(dict(claims.get("vm-configuration", {}))),
    )


def _parse_v0(found: Mapping[str, Any]) -> AzureEvidence:
    """Read form 0, whose names differ between SNP and TDX."""
    tdx = "td_quote" in found
    quote_name, report_name = ("tpm_quote", "hcl_report") if tdx else ("quote", "report")
    _names(found, {quote_name, report_name, "td_quote" if tdx else "vcek"})
    quote = found[quote_name]
    _names(quote, {"signature", "message", "pcrs"})
    if not isinstance(found.get("vcek", ""), str) or not isinstance(quote["pcrs"], list):
        _refuse("vcek is not a text, or pcrs are not a list")
    return _evidence(
        0,
        _octets("report", found[report_name]),
        _octets("message", quote["message"]),
        _octets("signature", quote["signature"]),
        [_octets("PCR", value) for value in quote["pcrs"]],
        td_quote=_octets("td_quote", found["td_quote"]) if tdx else b"",
        vcek=found.get("vcek", "").encode(),
    )


def _parse_later(found: Mapping[str, Any]) -> AzureEvidence:
    form = found["version"]
    if type(form) is not int or form not in {1, 2}:
        _refuse(f"Azure Evidence has version {form!r}, expected 1, 2 or none")
    hardware = "td_quote" if "td_quote" in found else "vcek"
    _names(found, {"version", "tpm_quote", "hcl_report", hardware})
    quote = found["tpm_quote"]
    _names(quote, {"signature", "message", "pcrs"})
    if not isinstance(quote["pcrs"], list):
        _refuse("pcrs are not a list")
    return _evidence(
        form,
        _base64("hcl_report", found["hcl_report"]),
        _hex("message", quote["message"]),
        _hex("signature", quote["signature"]),
        [_hex("PCR", value) for value in quote["pcrs"]],
        **{hardware: _base64(hardware, found[hardware])},
    )


def _evidence(
    form: int,
    report: bytes,
    message: bytes,
    signature: bytes,
    pcrs: list[bytes],
    *,
    td_quote: bytes = b"",
    vcek: bytes = b"",
) -> AzureEvidence:
    hcl = parse_hcl(report)
    if (hcl.report_type == TDX) != bool(td_quote):
        _refuse("the HCL report and the hardware Evidence beside it are of different TEEs")
    size = DIGEST_SIZES[SHA256]
    if len(pcrs) != PCR_COUNT or any(len(value) != size for value in pcrs):
        _refuse(f"pcrs are not {PCR_COUNT} values of {size} bytes")
    return AzureEvidence(
        form=form,
        hcl=hcl,
        quote=parse_quote(message),
        signature=Signature(scheme=RSASSA, hash=SHA256, parts=(signature,)),
        pcrs=MappingProxyType(dict(enumerate(pcrs))),
        td_quote=td_quote,
        vcek=vcek,
    )


def _user_data(claims: Mapping[str, Any]) -> bytes:
    """Return 64 bytes, of which Azure writes the hexadecimal in either case; early reports have none."""
    if "user-data" not in claims:
        return b""
    text = claims["user-data"]
    found = _hex("user-data", text.lower() if isinstance(text, str) else text)
    if len(found) != USER_DATA_SIZE:
        _refuse(f"user-data has {len(found)} bytes, expected {USER_DATA_SIZE}")
    return found


def _ak(claims: Any) -> tuple[bytes, int]:
    """Return modulus and exponent of the one attestation key in the runtime data (JWK, RFC 7518
    section 6.3).
    """
    if not isinstance(claims, dict) or not isinstance(claims.get("keys"), list):
        _refuse("the runtime data has no keys")
    if not isinstance(claims.get("vm-configuration", {}), dict):
        _refuse("the runtime data's vm-configuration is not an object")
    keys = [key for key in claims["keys"] if isinstance(key, dict) and key.get("kid") == AK_ID]
    if len(keys) != 1 or keys[0].get("kty") != "RSA" or keys[0].get("key_ops") != ["sign"]:
        _refuse(f"the runtime data has not exactly one RSA signing key {AK_ID}")
    exponent = int.from_bytes(_base64("exponent", keys[0].get("e")), "big")
    return _base64("modulus", keys[0].get("n")), exponent


def _names(found: Any, expected: set[str]) -> None:
    if not isinstance(found, dict) or set(found) != expected:
        _refuse(f"an object has not exactly the names {', '.join(sorted(expected))}")


def _octets(name: str, value: Any) -> bytes:
    if not isinstance(value, list) or not all(type(one) is int and 0 <= one < 256 for one in value):
        _refuse(f"{name} is not a list of bytes")
    return bytes(value)


def _hex(name: str, value: Any) -> bytes:
    try:
        decoded = bytes.fromhex(value)
    except (TypeError, ValueError):
        _refuse(f"{name} is not hexadecimal")
    if decoded.hex() != value:
        _refuse(f"{name} is not in lower-case hexadecimal without spaces")
    return decoded


def _base64(name: str, value: Any) -> bytes:
    """Read base64url (RFC 4648 section 5), all of its padding or none (RFC 7515 section 2), no stray bits."""
    try:
        decoded = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
    except (TypeError, ValueError, binascii.Error):
        _refuse(f"{name} is not base64url")
    padded = base64.urlsafe_b64encode(decoded).decode()
    if value not in {padded, padded.rstrip("=")}:
        _refuse(f"{name} is not in canonical base64url")
    return decoded


def _number(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _json(raw: bytes, limit: int, what: str) -> Any:
    if len(raw) > limit:
        _refuse(f"{what} has {len(raw)} bytes, at most {limit} are read")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(f"{what} is not strict JSON: {error}")


def _unique(pairs: Any) -> dict[str, Any]:
    if isinstance(pairs, str):
        raise ValueError(f"{pairs} is not a JSON number")
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return names


def _refuse(problem: str) -> NoReturn:
    raise MalformedEvidenceError(problem, _FIX)


def public_area(report: HclReport) -> Public:
    """Return the vTPM key as a public area, as Azure makes it: RSA, restricted to signing, fixed to its vTPM.

    The runtime data certifies the key only; that the vTPM made it so rests on Azure's paravisor, which the
    hardware report measures.
    """
    attributes = (
        tpm2_public.FIXED_TPM | tpm2_public.FIXED_PARENT | tpm2_public.SENSITIVE_ORIGIN
        | tpm2_public.USER_WITH_AUTH | tpm2_public.RESTRICTED | tpm2_public.SIGN
    )  # fmt: skip
    return Public(
        kind=tpm2_public.RSA,
        name_hash=SHA256,
        attributes=attributes,
        auth_policy=b"",
        aes_bits=0,
        scheme=RSASSA,
        scheme_hash=SHA256,
        bits=len(report.modulus) * 8,
        exponent=report.exponent,
        unique=(report.modulus,),
    )
