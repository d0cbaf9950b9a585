"""Names of artefacts in the cache: strict words, or SHA-256 where a value is long or chosen by others."""

import hashlib

from securetf.endorsements.needs import DcapNeed
from securetf.evidence.sev_snp import SnpKey, SnpProduct, SnpTcb


def dcap(need: DcapNeed, update: str) -> str:
    """Return the name of one platform's DCAP collateral. update: `standard` or `early`."""
    return f"dcap-{need.tee}-{need.fmspc.lower()}-{need.ca}-{update}"


def amd_chain(product: SnpProduct, key: SnpKey) -> str:
    """Return the name of ARK and ASK, or with a VLEK of ARK and ASVK."""
    return f"chain-{product.lower()}-{key.lower()}"


def amd_crl(product: SnpProduct, key: SnpKey) -> str:
    """Return the name of the ARK's revocation list, as the two services have it."""
    return f"crl-{product.lower()}-{key.lower()}"


def vcek(product: SnpProduct, chip_id: bytes, tcb: SnpTcb) -> str:
    """Return the name of one chip's VCEK for one firmware; all parts of the TCB count, the FMC too."""
    parts = (
        chip_id.hex(),
        *(str(part) for part in (tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)),
    )
    return f"vcek-{product.lower()}-{_digest('/'.join(parts))}"


def certificate(url: str) -> str:
    """Return the name of an issuer's certificate at a URL."""
    return f"certificate-{_digest(url)}"


def crl(url: str) -> str:
    """Return the name of a revocation list at a URL."""
    return f"crl-{_digest(url)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
