"""Evidence of an Intel SGX enclave under Gramine: a quote through its pseudo-files (Gramine documentation,
"Attestation and Secret Provisioning", low-level `/dev/attestation` interface).
"""

from pathlib import Path

from securetf.attester.detection import GRAMINE
from securetf.claims import REPORT_DATA_SIZE, Evidence, Platform
from securetf.errors import AttesterError
from securetf.evidence import dcap, sgx

_FIX = 'run this under gramine-sgx with `sgx.remote_attestation = "dcap"` in its manifest'
_WORD_SIZE_LIMIT = 64  # bytes of `attestation_type`


class SgxAttester:
    """Makes quotes v3. Not for several threads at once: the files belong to the whole enclave."""

    platform = Platform.SGX

    def __init__(self, root: Path = GRAMINE) -> None:
        """root: the directory of Gramine's pseudo-files."""
        self._root = root

    def attest(self, report_data: bytes) -> Evidence:
        """Return a fresh quote that carries `report_data` (64 bytes).

        Raises:
            AttesterError: no such device, it attests in another way, or the quote has other report data.
        """
        if len(report_data) != REPORT_DATA_SIZE:
            raise AttesterError(
                f"report data has {len(report_data)} bytes, expected {REPORT_DATA_SIZE}", "give a SHA-512"
            )
        kind = read(self._root / "attestation_type", _WORD_SIZE_LIMIT).decode("ascii", "replace").strip()
        if kind != "dcap":
            raise AttesterError(f"Gramine attests by {kind!r}, expected 'dcap'", _FIX)
        write(self._root / "user_report_data", report_data)
        raw = read(self._root / "quote", dcap.QUOTE_SIZE_LIMIT)
        if sgx.parse(raw).body.report_data != report_data:
            raise AttesterError("Gramine gave a quote with other report data", "attest again, one at a time")
        return Evidence(Platform.SGX, raw)


def read(path: Path, limit: int) -> bytes:
    """Return what a pseudo-file gives. Raises AttesterError: unreadable, or more than `limit` bytes."""
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise AttesterError(f"{path} cannot be read: {error.strerror}", _FIX) from None
    if len(content) > limit:
        raise AttesterError(f"{path.name} has more than {limit} bytes", _FIX)
    return content


def write(path: Path, content: bytes) -> None:
    """Give a pseudo-file its content. Raises AttesterError when it takes none."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise AttesterError(f"{path.name} cannot be written: {error.strerror}", _FIX) from None
