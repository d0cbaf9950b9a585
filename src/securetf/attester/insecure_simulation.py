"""INSECURE SIMULATION of a TDX platform: production-shaped quotes under a development PKI kept on disk."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from securetf.claims import Evidence, Platform
from securetf.endorsements import Endorsements, TrustAnchors


def create_platform(directory: Path, now: datetime) -> None:
    """Make a simulated platform: development PKI, PCK, collateral. `directory` must be absent or empty."""
    raise NotImplementedError


def load_anchor(directory: Path) -> TrustAnchors:
    """Return the development root of the platform as trust anchor."""
    raise NotImplementedError


def load_endorsements(directory: Path, now: datetime) -> Endorsements:
    """Return the platform's collateral; re-issued (and written) when it expires within two days of `now`."""
    raise NotImplementedError


class SimulatedTdx:
    """Attester that signs TDX v4 quotes with the platform's development keys."""

    platform = Platform.INSECURE_SIMULATION

    def __init__(self, directory: Path, code_roots: Mapping[str, bytes]) -> None:
        raise NotImplementedError

    def attest(self, report_data: bytes) -> Evidence:
        """Return a quote with mr_td = software_measurement() and rtmr3 = code_register(code_roots)."""
        raise NotImplementedError
