"""The sealing key of an SGX enclave under Gramine (Gramine documentation, "Attestation and Secret
Provisioning", `/dev/attestation/keys`; Intel SDM volume 3D, EGETKEY with SEAL_KEY).

Gramine asks for the key of the present CPUSVN, ISVSVN and CONFIGSVN: it is another one after an update of
microcode, and there is no way to ask for the earlier one.
"""

from collections.abc import Mapping
from pathlib import Path

from securetf.attester.detection import GRAMINE
from securetf.attester.sealing import differing, wipe
from securetf.attester.sgx import read, write
from securetf.claims import REPORT_DATA_SIZE, Platform
from securetf.errors import AttesterError
from securetf.evidence import dcap, sgx

MRENCLAVE, MRSIGNER = "mrenclave", "mrsigner"
KEY_SIZE = 16  # bytes
_TARGET_INFO_SIZE, _REPORT_SIZE = 512, 432  # bytes; the report's body comes first
_FIX = "run this under gramine-sgx 1.5 or later, which shows the sealing keys"


class SgxSealingKey:
    """`sealing.TeeKey`. Not for several threads at once: the files belong to the whole enclave."""

    platform = Platform.SGX

    def __init__(self, root: Path = GRAMINE, identity: str = MRENCLAVE) -> None:
        """root: the directory of Gramine's pseudo-files. identity: `MRENCLAVE`, for this enclave alone, or
        `MRSIGNER`, for every enclave of its signer with the same product id and version.
        """
        self._root, self._identity = root, identity

    def bound_to(self) -> dict[str, str]:
        """As `TeeKey.bound_to`, from a local report of this enclave to itself."""
        write(self._root / "target_info", self._exact("my_target_info", _TARGET_INFO_SIZE))
        write(self._root / "user_report_data", bytes(REPORT_DATA_SIZE))
        report = sgx.parse_report(self._exact("report", _REPORT_SIZE)[: dcap.REPORT_SIZE])
        found = {
            "cpu_svn": report.cpu_svn.hex(),
            "isv_svn": str(report.isv_svn),
            "config_svn": str(report.config_svn),
        }
        if self._identity == MRENCLAVE:
            return found | {"mr_enclave": report.mr_enclave.hex()}
        return found | {"mr_signer": report.mr_signer.hex(), "isv_prod_id": str(report.isv_prod_id)}

    def differences(self, then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
        """As `TeeKey.differences`."""
        return [one for name in now for one in differing(then, now, name)]

    def derive(self, bound_to: Mapping[str, str]) -> bytearray:  # noqa: ARG002  (there is but the present one)
        """As `TeeKey.derive`."""
        path, key = self._root / "keys" / f"_sgx_{self._identity}", bytearray(KEY_SIZE + 1)
        try:
            with path.open("rb", buffering=0) as stream:
                size = stream.readinto(key)
        except OSError as error:
            raise AttesterError(f"{path} cannot be read: {error.strerror}", _FIX) from None
        if size != KEY_SIZE:
            wipe(key)
            raise AttesterError(f"{path} has another size than {KEY_SIZE} bytes", _FIX)
        del key[KEY_SIZE:]
        return key

    def _exact(self, name: str, size: int) -> bytes:
        content = read(self._root / name, size)
        if len(content) != size:
            raise AttesterError(f"{name} has {len(content)} bytes, expected {size}", _FIX)
        return content
