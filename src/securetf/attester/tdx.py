"""Evidence of an Intel TDX guest: a quote through configfs-tsm. The host's quoting service must run.

The reviewed code is measured into RTMR 3 through the kernel's file, which extends the register by what is
written to it (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest; Linux 6.16 or later).
"""

from collections.abc import Mapping
from pathlib import Path

from securetf.attester import configfs_tsm
from securetf.attester.detection import TDX_MEASUREMENTS
from securetf.claims import REGISTER_SIZE, Evidence, Platform, code_event, code_register
from securetf.errors import AttesterError
from securetf.evidence import tdx

PROVIDER = "tdx_guest"


class TdxAttester:
    """Makes quotes v4 or v5, as the host's quoting enclave gives them."""

    platform = Platform.TDX

    def __init__(self, root: Path = configfs_tsm.ROOT) -> None:
        """root: the directory of configfs-tsm."""
        self._root = root

    def attest(self, report_data: bytes) -> Evidence:
        """Return a fresh quote that carries `report_data` (64 bytes).

        Raises:
            AttesterError: the kernel gave none, or one with other report data.
        """
        raw = configfs_tsm.request(report_data, expected_provider=PROVIDER, root=self._root).outblob
        if tdx.parse(raw).body.report_data != report_data:
            raise AttesterError("the kernel gave a quote with other report data", "attest again")
        return Evidence(Platform.TDX, raw)


def measure_code(roots: Mapping[str, bytes], measurements: Path = TDX_MEASUREMENTS) -> None:
    """Extend RTMR 3 of this machine by a workload's pinned roots, unless it has that value already.

    measurements: the kernel's directory of registers.

    Raises:
        AttesterError: the kernel cannot, or the register holds something else: one machine is for one
        workload, until it is started anew.
    """
    path, wanted = measurements / "rtmr3:sha384", code_register(roots)
    fix = "use Linux 6.16 or later with the tdx_guest driver, and run this as root"
    try:
        found = path.read_bytes()
        if found == bytes(REGISTER_SIZE):
            with path.open("r+b", buffering=0) as stream:
                stream.write(code_event(roots))
            found = path.read_bytes()
    except OSError as error:
        raise AttesterError(f"{path} cannot be extended: {error.strerror}", fix) from None
    if found != wanted:
        raise AttesterError(
            f"RTMR 3 holds {found.hex()[:96]}, which is not this workload's code",
            "start the machine anew: it has measured another workload since its boot",
        )
