"""What a relying party reads in an AttestationResult, to compare it with a policy of its own. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from securetf.appraisal.ear import EarClaims
from securetf.claims import MEASUREMENT_REGISTERS, Platform
from securetf.errors import TokenError

_FIX = "use a release that knows what this CAS writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultClaims:
    """What the verifier behind a token saw: names and sizes of `claims.VerifiedClaims`, at second hand."""

    platform: Platform
    registers: Mapping[str, bytes]
    properties: Mapping[str, int | str]
    tcb_status: str
    advisories: Sequence[str]
    platform_id: bytes

    @property
    def measurement(self) -> bytes:
        """The register that tells which software was started; empty if it is not there."""
        return self.registers.get(MEASUREMENT_REGISTERS[self.platform], b"")


def result_claims(claims: EarClaims) -> list[ResultClaims]:
    """Read the claims of an authenticated token: of the machine first, then of TPMs beside it.

    Raises:
        TokenError: an unknown platform, or another form.
    """
    try:
        beside = [part for name, part in sorted(claims.raw["submods"].items()) if name != "cpu"]
        return [_read(part["securetf"]) for part in (claims.raw, *beside)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenError(f"the token's claims are not of a known form: {error!r}", _FIX) from None


def _read(ours: Any) -> ResultClaims:
    tcb, properties = ours["tcb"], ours.get("properties", {})
    if not all(isinstance(value, int | str) for value in properties.values()):
        raise ValueError("a property that is neither number nor word")
    return ResultClaims(
        platform=Platform(ours["platform"]),
        registers=MappingProxyType({str(k): bytes.fromhex(v) for k, v in ours["registers"].items()}),
        properties=MappingProxyType(dict(properties)),
        tcb_status=str(tcb["status"]),
        advisories=tuple(str(one) for one in tcb["advisories"]),
        platform_id=bytes.fromhex(ours["platform_id"]),
    )
