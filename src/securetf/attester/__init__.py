"""Makes Evidence inside the TEE."""

from typing import Protocol

from securetf.attester.detection import Devices, detect
from securetf.claims import Evidence, Platform

__all__ = ["Attester", "Devices", "detect"]


class Attester(Protocol):
    """Asks the platform for Evidence."""

    @property
    def platform(self) -> Platform:
        """The platform whose Evidence `attest` returns."""
        ...

    def attest(self, report_data: bytes) -> Evidence:
        """Return fresh Evidence that carries `report_data` (64 bytes).

        Raises:
            AttesterError: the platform gave none.
        """
        ...
