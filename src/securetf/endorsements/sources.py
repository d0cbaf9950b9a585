"""The vendors' services: Intel PCS or a PCCS, AMD KDS, TPM manufacturers. Every address is configuration."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from urllib.parse import urlsplit

from securetf.endorsements import amd, intel
from securetf.endorsements.download import Downloader
from securetf.endorsements.needs import DcapNeed, SnpNeed
from securetf.endorsements.refusals import EndorsementSourceError
from securetf.evidence.sev_snp import SnpKey, SnpProduct

DEADLINE_S = 20.0  # for one request with its repetitions
CERTIFICATE_LIMIT, CRL_LIMIT = 64 * 1024, 1024 * 1024  # bytes
# Where certificates of TPMs say that their issuers and revocation lists are. Evidence chooses the address, so
# only these hosts are asked, each as it is written or, after a dot, below it.
TPM_HOSTS = (
    "pki.infineon.com",
    "sw-center.st.com",
    "www.nuvoton.com",
    "security.nuvoton.com",
    "trustedservices.intel.com",
    "upgrades.intel.com",
    "ftpm.amd.com",
    "ekcert.spserv.microsoft.com",
    "www.microsoft.com",
    "storage.googleapis.com",
    "pki.goog",
)


class Update(StrEnum):
    """Which TCB evaluation data: `early` has a recovery at once, `standard` some months later."""

    STANDARD = "standard"
    EARLY = "early"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What a service gave. source: its address."""

    content: bytes = field(repr=False)
    source: str


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Addresses of the services, and how they are asked. The defaults are the vendors' own.

    intel: of Intel PCS or a PCCS, up to `/sgx/certification`. intel_root_crl: of the root CA's list; None
    asks `intel` for it, as a PCCS has it. amd: of AMD KDS. tpm_hosts: hosts that may be asked for issuers and
    lists which certificates of TPMs name. deadline_s: for one request. ca_file: PEM of authorities for the
    services' TLS, None: the system's.
    """

    intel: str = "https://api.trustedservices.intel.com"
    intel_root_crl: str | None = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    amd: str = "https://kdsintf.amd.com"
    tpm_hosts: tuple[str, ...] = TPM_HOSTS
    update: Update = Update.STANDARD
    deadline_s: float = DEADLINE_S
    ca_file: str | None = None

    @cached_property
    def _downloader(self) -> Downloader:
        return Downloader(deadline_s=self.deadline_s, ca_file=self.ca_file)

    def dcap(self, need: DcapNeed) -> Fetched:
        """Fetch one set of collateral, as JSON of `Endorsements`.

        Raises:
            EndorsementSourceError: a service did not give it, or gave something else.
        """
        found = intel.fetch(
            self._downloader,
            base=self.intel.rstrip("/"),
            root_crl=self.intel_root_crl,
            need=need,
            update=self.update,
        )
        return Fetched(content=found.to_json().encode(), source=self.intel)

    def vcek(self, product: SnpProduct, need: SnpNeed) -> Fetched:
        """Fetch a chip's certificate, DER. Errors as `dcap`."""
        return self._get(amd.vcek_url(self.amd, product, need.chip_id, need.tcb), CERTIFICATE_LIMIT)

    def amd_chain(self, product: SnpProduct, key: SnpKey) -> Fetched:
        """Fetch ASK or ASVK and ARK, PEM. Errors as `dcap`."""
        return self._get(amd.chain_url(self.amd, product, key), CERTIFICATE_LIMIT)

    def amd_crl(self, product: SnpProduct, key: SnpKey) -> Fetched:
        """Fetch the ARK's revocation list, DER. Errors as `dcap`."""
        return self._get(amd.crl_url(self.amd, product, key), CRL_LIMIT)

    def tpm_certificate(self, url: str) -> Fetched:
        """Fetch an issuer's certificate that a TPM's certificate names. Errors as `dcap`."""
        return self._get(self._allowed(url), CERTIFICATE_LIMIT)

    def tpm_crl(self, url: str) -> Fetched:
        """Fetch a revocation list that a TPM's certificate names. Errors as `dcap`."""
        return self._get(self._allowed(url), CRL_LIMIT)

    def _get(self, url: str, limit: int) -> Fetched:
        return Fetched(content=self._downloader.get(url, limit=limit).body, source=url)

    def _allowed(self, url: str) -> str:
        host = urlsplit(url).hostname or ""
        if not any(host == one or host.endswith(f".{one}") for one in self.tpm_hosts):
            raise EndorsementSourceError(
                f"a certificate names {url}, whose host is not one that is asked",
                "name the host of this manufacturer with --tpm-host, or import the file",
            )
        return url
