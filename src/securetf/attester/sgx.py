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
        kind = self._read("attestation_type", _WORD_SIZE_LIMIT).decode("ascii", "replace").strip()
        if kind != "dcap":
            raise AttesterError(f"Gramine attests by {kind!r}, expected 'dcap'", _FIX)
        try:
            (self._root / "user_report_data").write_bytes(report_data)
        except OSError as error:
            raise AttesterError(f"user_report_data cannot be written: {error.strerror}", _FIX) from None
        raw = self._read("quote", dcap.QUOTE_SIZE_LIMIT)
        if sgx.parse(raw).body.report_data != report_data:
            raise AttesterError("Gramine gave a quote with other report data", "attest again, one at a time")
        return Evidence(Platform.SGX, raw)

    def _read(self, name: str, limit: int) -> bytes:
        try:
            with (self._root / name).open("rb") as stream:
                content = stream.read(limit + 1)
        except OSError as error:
            raise AttesterError(f"{self._root / name} cannot be read: {error.strerror}", _FIX) from None
        if len(content) > limit:
            raise AttesterError(f"{name} has more than {limit} bytes", _FIX)
        return content
