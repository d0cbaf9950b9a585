"""Evidence of an AMD SEV-SNP guest: a report and the host's certificates, if any, through configfs-tsm."""

from pathlib import Path

from securetf.attester import configfs_tsm
from securetf.claims import Evidence, Platform
from securetf.errors import AttesterError
from securetf.evidence import sev_snp_certificates

PROVIDER = "sev_guest"


class SnpAttester:
    """Makes reports at the privilege level of the guest's kernel."""

    platform = Platform.SEV_SNP

    def __init__(self, root: Path = configfs_tsm.ROOT) -> None:
        """root: the directory of configfs-tsm."""
        self._root = root

    def attest(self, report_data: bytes) -> Evidence:
        """Return a fresh report that carries `report_data` (64 bytes), followed by the certificate table.

        Raises:
            AttesterError: the kernel gave none, or one with other report data.
        """
        given = configfs_tsm.request(report_data, expected_provider=PROVIDER, root=self._root)
        raw = given.outblob + given.auxblob
        if sev_snp_certificates.parse(raw).report.report_data != report_data:
            raise AttesterError("the kernel gave a report with other report data", "attest again")
        return Evidence(Platform.SEV_SNP, raw)
