"""Intel TDX quotes v4 and v5 as exact bytes (Intel TDX DCAP Quoting Library API, rev 0.9, appendix 3).
Little endian.

Strict: each declared length must fit its part exactly, reserved bytes are zero, and after the declared end
only zero bytes may follow (genuine quotes are padded). `encode` gives the canonical bytes; nothing is keyed
on the raw ones.
"""

import struct
from dataclasses import dataclass, field, fields

from securetf.errors import MalformedEvidenceError
from securetf.evidence.dcap import (
    AS_GIVEN,
    HEADER_SIZE,
    KEY_TYPE_ECDSA_P256,
    QE_VENDOR_INTEL,
    check_kind,
    check_padding,
    encode_signature_data,
    open_quote,
    parse_signature_data,
)

TEE_TDX = 0x81
BODY_TD10, BODY_TD15 = 2, 3

_HEADER = struct.Struct("<HHIHH16s20s")
_BODY_HEADER = struct.Struct("<HI")


def _sized(size: int) -> bytes:
    """Declare a field of `size` bytes; its value has no default."""
    field_: bytes = field(metadata={"size": size})
    return field_


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """The body of a quote, TD report 1.0; with `tee_tcb_svn2` and `mr_service_td` 1.5. Fields as Intel
    names them.

    mr_td: SHA-384 of the TD's initial contents. rtmr0 to rtmr3: run-time registers. report_data: the TD's
    choice.
    """

    tee_tcb_svn: bytes = _sized(16)
    mr_seam: bytes = _sized(48)
    mr_signer_seam: bytes = _sized(48)
    seam_attributes: bytes = _sized(8)
    td_attributes: bytes = _sized(8)
    xfam: bytes = _sized(8)
    mr_td: bytes = _sized(48)
    mr_config_id: bytes = _sized(48)
    mr_owner: bytes = _sized(48)
    mr_owner_config: bytes = _sized(48)
    rtmr0: bytes = _sized(48)
    rtmr1: bytes = _sized(48)
    rtmr2: bytes = _sized(48)
    rtmr3: bytes = _sized(48)
    report_data: bytes = _sized(64)
    tee_tcb_svn2: bytes | None = field(default=None, metadata={"size": 16})
    mr_service_td: bytes | None = field(default=None, metadata={"size": 48})

    @property
    def body_type(self) -> int:
        """`BODY_TD15` if the two fields of 1.5 are there, else `BODY_TD10`."""
        return BODY_TD10 if self.mr_service_td is None else BODY_TD15


_LAYOUT = tuple((entry.name, int(entry.metadata["size"])) for entry in fields(TdReport))
_LAYOUTS = {BODY_TD10: _LAYOUT[:-2], BODY_TD15: _LAYOUT}
_BODIES = {
    body_type: struct.Struct("<" + "".join(f"{size}s" for _, size in layout))
    for body_type, layout in _LAYOUTS.items()
}
_BODY_SIZES = {body_type: body.size for body_type, body in _BODIES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxQuote:
    """One quote as received; nothing is authenticated until `verifier.tdx` returns.

    version: 4 or 5. user_data: 20 bytes of the quoting enclave. signature: 64 bytes by `attestation_key`
    (64 bytes, x then y) over `signed_bytes`. qe_report: 384 bytes, signed by the PCK with
    `qe_report_signature`; its report data binds attestation_key and qe_auth_data. pck_chain: PEM of leaf,
    CA and root, perhaps a closing NUL.
    """

    version: int
    user_data: bytes
    body: TdReport
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_report_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes


def parse(raw: bytes) -> TdxQuote:
    """Read one quote, v4 or v5, with a PCK chain inside (certification data 6 around 5).

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    reader = open_quote(raw)
    version, user_data = _parse_header(reader.take("header", HEADER_SIZE))
    body_type, body_size = BODY_TD10, _BODY_SIZES[BODY_TD10]
    if version == 5:
        body_type, body_size = _BODY_HEADER.unpack(reader.take("body header", _BODY_HEADER.size))
        if _BODY_SIZES.get(body_type) != body_size:
            raise MalformedEvidenceError(
                f"quote body has type {body_type} and {body_size} bytes, expected one of {_BODY_SIZES}",
                AS_GIVEN,
            )
    body = _parse_body(reader.take("body", body_size), body_type)
    signature_data = reader.sized("signature data")
    check_padding(reader)
    signed = parse_signature_data(signature_data, nested=True)
    return TdxQuote(version=version, user_data=user_data, body=body, **signed)


def encode(quote: TdxQuote) -> bytes:
    """Return the canonical bytes of a quote: no padding. `parse(encode(quote)) == quote`."""
    return signed_bytes(quote) + encode_signature_data(quote, nested=True)


def signed_bytes(quote: TdxQuote) -> bytes:
    """Return header and body, the bytes that `signature` covers."""
    header = _HEADER.pack(quote.version, KEY_TYPE_ECDSA_P256, TEE_TDX, 0, 0, QE_VENDOR_INTEL, quote.user_data)
    body_type = quote.body.body_type
    if quote.version == 5:
        header += _BODY_HEADER.pack(body_type, _BODY_SIZES[body_type])
    return header + b"".join(getattr(quote.body, name) for name, _ in _LAYOUTS[body_type])


def _parse_header(raw: bytes) -> tuple[int, bytes]:
    version, key_type, tee, reserved1, reserved2, vendor, user_data = _HEADER.unpack(raw)
    if version not in {4, 5}:
        raise MalformedEvidenceError(f"quote version is {version}, expected 4 or 5", AS_GIVEN)
    check_kind(key_type, tee, vendor, TEE_TDX, "TDX")
    if reserved1 or reserved2:
        raise MalformedEvidenceError("reserved bytes of the quote header are not zero", AS_GIVEN)
    return version, user_data


def _parse_body(raw: bytes, body_type: int) -> TdReport:
    names = (name for name, _ in _LAYOUTS[body_type])
    return TdReport(**dict(zip(names, _BODIES[body_type].unpack(raw), strict=True)))
