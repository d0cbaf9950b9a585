"""Composite Evidence: a machine's TEE and its vTPM in one attestation (docs/formats/evidence-binding.md).

The vTPM is asked first; the TEE's Evidence then covers what it said, so that nobody can exchange it.
"""

from collections.abc import Sequence

from securetf.attester import Attester
from securetf.claims import Evidence, Platform
from securetf.errors import UsageError
from securetf.evidence.binding import composite_report_data


class CompositeAttester:
    """A TEE's attester and those of TPMs beside it."""

    def __init__(self, machine: Attester, others: Sequence[Attester]) -> None:
        """machine: of the TEE. others: at least one, each of another platform.

        Raises:
            UsageError: two of one platform, or none beside the machine.
        """
        platforms = [machine.platform, *(one.platform for one in others)]
        if len(platforms) < 2 or len(set(platforms)) != len(platforms):
            raise UsageError(
                f"composite Evidence of {', '.join(platforms)}", "name each platform once, the TEE first"
            )
        self._machine, self._others = machine, tuple(others)

    @property
    def platform(self) -> Platform:
        """The TEE's."""
        return self._machine.platform

    def attest(self, report_data: bytes) -> Evidence:
        """As `Attester.attest`. The others carry `report_data`, the machine its composite."""
        others = tuple(one.attest(report_data) for one in self._others)
        covered = {one.platform.value: one.raw for one in others}
        machine = self._machine.attest(composite_report_data(report_data, covered))
        return Evidence(machine.platform, machine.raw, others)
