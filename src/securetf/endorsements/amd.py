"""Addresses in AMD's Key Distribution Service (AMD 57230, chapter 4, "KDS Interface")."""

from securetf.evidence.sev_snp import SnpKey, SnpProduct, SnpTcb


def vcek_url(base: str, product: SnpProduct, chip_id: bytes, tcb: SnpTcb) -> str:
    """Return where a chip's VCEK is. chip_id: 64 bytes, on Turin 8; only Turin's has an FMC."""
    parts = {
        "fmcSPL": tcb.fmc,
        "blSPL": tcb.bootloader,
        "teeSPL": tcb.tee,
        "snpSPL": tcb.snp,
        "ucodeSPL": tcb.microcode,
    }
    query = "&".join(f"{name}={value:02d}" for name, value in parts.items() if value is not None)
    return f"{_service(base, SnpKey.VCEK, product)}/{chip_id.hex()}?{query}"


def chain_url(base: str, product: SnpProduct, key: SnpKey) -> str:
    """Return where ASK and ARK are, or with a VLEK ASVK and ARK."""
    return f"{_service(base, key, product)}/cert_chain"


def crl_url(base: str, product: SnpProduct, key: SnpKey) -> str:
    """Return where the ARK's revocation list is."""
    return f"{_service(base, key, product)}/crl"


def _service(base: str, key: SnpKey, product: SnpProduct) -> str:
    return f"{base.rstrip('/')}/{key.lower()}/v1/{product}"
