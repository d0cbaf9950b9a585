"""What quotes of Intel SGX and TDX share: the signature data behind the body (Intel SGX ECDSA Quote
Library API,
appendix A.4; Intel TDX DCAP Quoting Library API, appendix 3). Little endian.

Strict: each declared length must fit its part exactly, reserved bytes are zero, and after the declared end
only zero bytes may follow (genuine quotes are padded).
"""

import struct
from collections.abc import Mapping
from typing import Protocol

from securetf.errors import MalformedEvidenceError

QUOTE_SIZE_LIMIT = 32 * 1024  # bytes; genuine ones have 5 to 8 KiB
PCK_CHAIN_SIZE_LIMIT = 16 * 1024  # bytes of PEM; genuine ones have 3.7 KB
QE_AUTH_DATA_SIZE = 32  # bytes; what Intel's quoting enclave writes and dcap-qvl requires
HEADER_SIZE = 48
REPORT_SIZE = 384  # of an SGX enclave: the quoting enclave's, and the body of an SGX quote
SIGNATURE_SIZE = 64  # r then s, big endian
KEY_TYPE_ECDSA_P256 = 2
QE_VENDOR_INTEL = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
CERTIFICATION_QE_REPORT, CERTIFICATION_PCK_CHAIN = 6, 5

_CERTIFICATION = struct.Struct("<HI")
# Reserved ranges of the quoting enclave's SGX report (Intel SDM volume 3D, table 38-21).
_QE_RESERVED = (slice(20, 48), slice(96, 128), slice(160, 256), slice(260, 320), slice(352, 384))
AS_GIVEN = "pass the quote exactly as the platform gave it"


class DcapQuote(Protocol):
    """What `verifier` needs of a quote of either kind; nothing is authenticated until it returns.

    signature: 64 bytes by `attestation_key` (64 bytes, x then y). qe_report: 384 bytes, signed by the PCK
    with `qe_report_signature`; its report data binds attestation_key and qe_auth_data. pck_chain: PEM of
    leaf, CA and root, perhaps a closing NUL.
    """

    @property
    def signature(self) -> bytes: ...
    @property
    def attestation_key(self) -> bytes: ...
    @property
    def qe_report(self) -> bytes: ...
    @property
    def qe_report_signature(self) -> bytes: ...
    @property
    def qe_auth_data(self) -> bytes: ...
    @property
    def pck_chain(self) -> bytes: ...


class Reader:
    """Takes exact parts off the front of `raw`; a part that is not there in full is an error."""

    def __init__(self, raw: bytes, name: str) -> None:
        self._raw, self._name, self._offset = raw, name, 0

    def take(self, part: str, size: int) -> bytes:
        """Return the next `size` bytes."""
        taken = self._raw[self._offset : self._offset + size]
        if len(taken) != size:
            raise MalformedEvidenceError(
                f"{self._name} ends inside its {part}: {len(taken)} bytes of {size}", AS_GIVEN
            )
        self._offset += size
        return taken

    def sized(self, part: str) -> bytes:
        """Return the next part, which stands after its size in 4 bytes."""
        return self.take(part, int.from_bytes(self.take(f"{part} size", 4), "little"))

    def certification(self, expected: int) -> bytes:
        """Return certification data, which must be of the type `expected`."""
        kind, size = _CERTIFICATION.unpack(self.take("certification header", _CERTIFICATION.size))
        if kind != expected:
            raise MalformedEvidenceError(
                f"{self._name} has certification data of type {kind}, expected {expected}",
                "use a platform whose quotes carry their PCK certificate chain",
            )
        return self.take("certification data", size)

    def rest(self) -> bytes:
        """Return what has not been taken."""
        return self._raw[self._offset :]

    def end(self) -> None:
        """Check that everything was taken."""
        if self.rest():
            raise MalformedEvidenceError(
                f"{len(self.rest())} bytes follow the end of the {self._name}", AS_GIVEN
            )


def open_quote(raw: bytes) -> Reader:
    """Return a reader of a quote that is not too long."""
    if len(raw) > QUOTE_SIZE_LIMIT:
        raise MalformedEvidenceError(
            f"quote has {len(raw)} bytes, at most {QUOTE_SIZE_LIMIT} are read", AS_GIVEN
        )
    return Reader(raw, "quote")


def check_kind(key_type: int, tee: int, vendor: bytes, expected_tee: int, name: str) -> None:
    """Check what the headers of all versions have in common."""
    if key_type != KEY_TYPE_ECDSA_P256:
        raise MalformedEvidenceError(
            f"attestation key type is {key_type}, expected 2 (ECDSA P-256)", AS_GIVEN
        )
    if tee != expected_tee:
        raise MalformedEvidenceError(f"TEE type is {tee:#x}, expected {expected_tee:#x} ({name})", AS_GIVEN)
    if vendor != QE_VENDOR_INTEL:
        raise MalformedEvidenceError(f"QE vendor is {vendor.hex()}, expected Intel's", AS_GIVEN)


def check_padding(reader: Reader) -> None:
    """Check that only zero bytes follow the declared end."""
    if any(reader.rest()):
        raise MalformedEvidenceError("bytes other than zero follow the quote's declared end", AS_GIVEN)


def parse_signature_data(raw: bytes, *, nested: bool) -> Mapping[str, bytes]:
    """Return the fields of `DcapQuote`. nested: the QE report stands in certification data of type 6 (v4,
    v5).

    Raises:
        MalformedEvidenceError: naming the first field that is not as it must be.
    """
    outer = Reader(raw, "signature data")
    signature = outer.take("signature", SIGNATURE_SIZE)
    attestation_key = outer.take("attestation key", 64)
    inner = outer
    if nested:
        inner = Reader(outer.certification(CERTIFICATION_QE_REPORT), "QE certification data")
        outer.end()
    qe_report = inner.take("QE report", REPORT_SIZE)
    if any(any(qe_report[part]) for part in _QE_RESERVED):
        raise MalformedEvidenceError("reserved bytes of the QE report are not zero", AS_GIVEN)
    qe_report_signature = inner.take("QE report signature", SIGNATURE_SIZE)
    size = int.from_bytes(inner.take("QE authentication data size", 2), "little")
    if size != QE_AUTH_DATA_SIZE:
        raise MalformedEvidenceError(f"QE authentication data has {size} bytes, expected 32", AS_GIVEN)
    qe_auth_data = inner.take("QE authentication data", size)
    pck_chain = inner.certification(CERTIFICATION_PCK_CHAIN)
    inner.end()
    if not 0 < len(pck_chain) <= PCK_CHAIN_SIZE_LIMIT:
        raise MalformedEvidenceError(
            f"PCK chain has {len(pck_chain)} bytes, expected 1 to {PCK_CHAIN_SIZE_LIMIT}", AS_GIVEN
        )
    return {
        "signature": signature,
        "attestation_key": attestation_key,
        "qe_report": qe_report,
        "qe_report_signature": qe_report_signature,
        "qe_auth_data": qe_auth_data,
        "pck_chain": pck_chain,
    }


def encode_signature_data(quote: DcapQuote, *, nested: bool) -> bytes:
    """Return the signature data after its size, the inverse of `parse_signature_data`."""
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
    if nested:
        inner = _CERTIFICATION.pack(CERTIFICATION_QE_REPORT, len(inner)) + inner
    data = quote.signature + quote.attestation_key + inner
    return len(data).to_bytes(4, "little") + data
