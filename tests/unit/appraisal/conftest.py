"""Claims and a policy that accepts them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from securetf.claims import Platform, VerifiedClaims

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
SOFTWARE, CODE, ZERO = b"\1" * 48, b"\3" * 48, bytes(48)


@dataclass
class Reference:
    """A policy as a Manifest has it."""

    mr_td: Sequence[str] = (SOFTWARE.hex(),)
    rtmr0: Sequence[str] | None = None
    rtmr1: Sequence[str] | None = None
    rtmr2: Sequence[str] | None = None
    tcb: Sequence[str] = ("UpToDate",)
    tolerate: Sequence[str] = ()
    platform_ids: Sequence[str] = field(default_factory=tuple)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def policy() -> Reference:
    return Reference()


@pytest.fixture
def claims() -> VerifiedClaims:
    """Claims of hardware; only tests may make them by hand."""
    return VerifiedClaims(
        platform=Platform.TDX,
        registers={"mr_td": SOFTWARE, "rtmr0": ZERO, "rtmr1": ZERO, "rtmr2": ZERO, "rtmr3": CODE},
        report_data=bytes(64),
        tcb_status="UpToDate",
        advisories=(),
        tcb_evaluation_number=18,
        platform_id=bytes(range(16)),
        valid_until=NOW + timedelta(days=1),
        simulated=False,
    )
