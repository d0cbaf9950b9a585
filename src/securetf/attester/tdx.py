"""Evidence of an Intel TDX guest: a quote through configfs-tsm. The host's quoting service must run."""

from pathlib import Path

from securetf.attester import configfs_tsm
from securetf.claims import Evidence, Platform
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
