"""Intel TDX quotes v4 and v5 as exact bytes (Intel TDX DCAP Quoting Library API, rev 0.9, appendix 3).
Little endian.

Strict: each declared length must fit its part exactly, reserved bytes are zero, and after the declared end
only zero bytes may follow (genuine quotes are padded). `encode` gives the canonical bytes; nothing is keyed
on the raw ones.
"""

import struct
from dataclasses import dataclass, field, fields

from securetf.errors import MalformedEvidenceError

QUOTE_SIZE_LIMIT = 32 * 1024  # bytes; genuine ones have 5 to 8 KiB
PCK_CHAIN_SIZE_LIMIT = 16 * 1024  # bytes of PEM; genuine ones have 3.7 KB
QE_AUTH_DATA_SIZE = 32  # bytes; what Intel's quoting enclave writes and dcap-qvl requires
HEADER_SIZE = 48
QE_REPORT_SIZE = 384
SIGNATURE_SIZE = 64  # r then s, big endian
TEE_TDX = 0x81
KEY_TYPE_ECDSA_P256 = 2
QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
BODY_TD10, BODY_TD15 = 2, 3
CERTIFICATION_QE_REPORT, CERTIFICATION_PCK_CHAIN = 6, 5

_HEADER = struct.Struct("<HHIHH16s20s")
_BODY_HEADER = struct.Struct("<HI")
_CERTIFICATION = struct.Struct("<HI")
# Reserved ranges of the quoting enclave's SGX report (Intel SDM volume 3D, table 38-21).
_QE_RESERVED = (slice(20, 48), slice(96, 128), slice(160, 256), slice(260, 320), slice(352, 384))
_FIX = "pass the quote exactly as the platform gave it"


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
_BODY_SIZES = {body_type: sum(size for _, size in layout) for body_type, layout in _LAYOUTS.items()}


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
    if len(raw) > QUOTE_SIZE_LIMIT:
        raise MalformedEvidenceError(f"quote has {len(raw)} bytes, at most {QUOTE_SIZE_LIMIT} are read", _FIX)
    reader = _Reader(raw, "quote")
    version, user_data = _parse_header(reader.take("header", HEADER_SIZE))
    body_type, body_size = BODY_TD10, _BODY_SIZES[BODY_TD10]
    if version == 5:
        body_type, body_size = _BODY_HEADER.unpack(reader.take("body header", _BODY_HEADER.size))
        if _BODY_SIZES.get(body_type) != body_size:
            raise MalformedEvidenceError(
                f"quote body has type {body_type} and {body_size} bytes, expected one of {_BODY_SIZES}", _FIX
            )
    body = _parse_body(reader.take("body", body_size), body_type)
    signature_data = reader.sized("signature data")
    if any(reader.rest()):
        raise MalformedEvidenceError("bytes other than zero follow the quote's declared end", _FIX)
    return _parse_signature_data(signature_data, version, user_data, body)


def encode(quote: TdxQuote) -> bytes:
    """Return the canonical bytes of a quote: no padding. `parse(encode(quote)) == quote`."""
    inner = b"".join(
        (
            quote.qe_report,
            quote.qe_report_signature,
            len(quote.qe_auth_data).to_bytes(2, "little"),
            quote.qe_auth_data,
            _CERTIFICATION.pack(CERTIFICATION_PCK_CHAIN, len(quote.pck_chain)),
            quote.pck_chain,
        )
    )
    outer = _CERTIFICATION.pack(CERTIFICATION_QE_REPORT, len(inner)) + inner
    signature_data = quote.signature + quote.attestation_key + outer
    return signed_bytes(quote) + len(signature_data).to_bytes(4, "little") + signature_data


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
        raise MalformedEvidenceError(f"quote version is {version}, expected 4 or 5", _FIX)
    if key_type != KEY_TYPE_ECDSA_P256:
        raise MalformedEvidenceError(f"attestation key type is {key_type}, expected 2 (ECDSA P-256)", _FIX)
    if tee != TEE_TDX:
        raise MalformedEvidenceError(f"TEE type is {tee:#x}, expected 0x81 (TDX)", _FIX)
    if reserved1 or reserved2:
        raise MalformedEvidenceError("reserved bytes of the quote header are not zero", _FIX)
    if vendor != QE_VENDOR_INTEL:
        raise MalformedEvidenceError(f"QE vendor is {vendor.hex()}, expected Intel's", _FIX)
    return version, user_data


def _parse_body(raw: bytes, body_type: int) -> TdReport:
    values, offset = {}, 0
    for name, size in _LAYOUTS[body_type]:
        values[name] = raw[offset : offset + size]
        offset += size
    return TdReport(**values)


def _parse_signature_data(raw: bytes, version: int, user_data: bytes, body: TdReport) -> TdxQuote:
    outer = _Reader(raw, "signature data")
    signature = outer.take("signature", SIGNATURE_SIZE)
    attestation_key = outer.take("attestation key", 64)
    inner = _Reader(outer.certification(CERTIFICATION_QE_REPORT), "QE certification data")
    outer.end()
    qe_report = inner.take("QE report", QE_REPORT_SIZE)
    if any(any(qe_report[part]) for part in _QE_RESERVED):
        raise MalformedEvidenceError("reserved bytes of the QE report are not zero", _FIX)
    qe_report_signature = inner.take("QE report signature", SIGNATURE_SIZE)
    qe_auth_size = int.from_bytes(inner.take("QE authentication data size", 2), "little")
    if qe_auth_size != QE_AUTH_DATA_SIZE:
        raise MalformedEvidenceError(f"QE authentication data has {qe_auth_size} bytes, expected 32", _FIX)
    qe_auth_data = inner.take("QE authentication data", qe_auth_size)
    pck_chain = inner.certification(CERTIFICATION_PCK_CHAIN)
    inner.end()
    if not 0 < len(pck_chain) <= PCK_CHAIN_SIZE_LIMIT:
        raise MalformedEvidenceError(
            f"PCK chain has {len(pck_chain)} bytes, expected 1 to {PCK_CHAIN_SIZE_LIMIT}", _FIX
        )
    return TdxQuote(
        version=version,
        user_data=user_data,
        body=body,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_report_signature=qe_report_signature,
        qe_auth_data=qe_auth_data,
        pck_chain=pck_chain,
    )


class _Reader:
    """Takes exact parts off the front of `raw`; a part that is not there in full is an error."""

    def __init__(self, raw: bytes, name: str) -> None:
        self._raw, self._name, self._offset = raw, name, 0

    def take(self, part: str, size: int) -> bytes:
        taken = self._raw[self._offset : self._offset + size]
        if len(taken) != size:
            raise MalformedEvidenceError(
                f"{self._name} ends inside its {part}: {len(taken)} bytes of {size}", _FIX
            )
        self._offset += size
        return taken

    def sized(self, part: str) -> bytes:
        return self.take(part, int.from_bytes(self.take(f"{part} size", 4), "little"))

    def certification(self, expected: int) -> bytes:
        kind, size = _CERTIFICATION.unpack(self.take("certification header", _CERTIFICATION.size))
        if kind != expected:
            raise MalformedEvidenceError(
                f"{self._name} has certification data of type {kind}, expected {expected}",
                "use a platform whose quotes carry their PCK certificate chain",
            )
        return self.take("certification data", size)

    def rest(self) -> bytes:
        return self._raw[self._offset :]

    def end(self) -> None:
        if self.rest():
            raise MalformedEvidenceError(f"{len(self.rest())} bytes follow the end of the {self._name}", _FIX)
