"""What every platform's rows share: a mismatch, and the comparison of one register or of the machine."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from securetf.claims import Platform
from securetf.errors import AppraisalError, MeasurementError, PlatformNotAllowedError, TcbNotAcceptedError

Mismatch = tuple[type[AppraisalError], str]


class Claims(Protocol):
    """What is compared with a policy: `VerifiedClaims`, or what an AttestationResult says of them."""

    @property
    def platform(self) -> Platform: ...
    @property
    def registers(self) -> Mapping[str, bytes]: ...
    @property
    def properties(self) -> Mapping[str, int | str]: ...
    @property
    def tcb_status(self) -> str: ...
    @property
    def advisories(self) -> Sequence[str]: ...
    @property
    def platform_id(self) -> bytes: ...


def register(name: str, claims: Claims, accepted: Sequence[str]) -> Iterator[Mismatch]:
    """Yield a mismatch unless the register is one of `accepted` (hex); an empty list accepts nothing."""
    found = claims.registers[name].hex() if name in claims.registers else "absent"
    if found not in {value.lower() for value in accepted}:
        expected = " or ".join(accepted) or "nothing (the list is empty)"
        yield MeasurementError, f"{name} is {found}, expected {expected}"


def tcb_status(claims: Claims, tcb: Sequence[str], tolerate: Sequence[str]) -> Iterator[Mismatch]:
    """Yield what of the vendor's status and advisories is neither accepted nor tolerated."""
    if claims.tcb_status not in {*tcb, *tolerate}:
        yield (
            TcbNotAcceptedError,
            f"TCB status is {claims.tcb_status}, accepted: {', '.join(tcb) or 'none'}",
        )
    open_advisories = [advisory for advisory in claims.advisories if advisory not in tolerate]
    if open_advisories:
        yield TcbNotAcceptedError, f"advisories apply that are not tolerated: {', '.join(open_advisories)}"


def machine(claims: Claims, platform_ids: Sequence[str]) -> Iterator[Mismatch]:
    """Yield a mismatch unless the machine is among `platform_ids` (hex), or the list is empty."""
    accepted = {identity.lower() for identity in platform_ids}
    if accepted and claims.platform_id.hex() not in accepted:
        yield (
            PlatformNotAllowedError,
            f"machine {claims.platform_id.hex() or 'without identity'} is not among platform_ids",
        )


def number(claims: Claims, name: str) -> int:
    """Return a property that is a number; -1, below every minimum, if it is not there."""
    value = claims.properties.get(name)
    return value if isinstance(value, int) else -1
