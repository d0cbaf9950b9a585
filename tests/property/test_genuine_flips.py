"""Of each genuine file a few flips and truncations, drawn anew each day; `fuzz/genuine_flips.py` does all."""

import random
from datetime import UTC, datetime

import pytest

from support.genuine import Case, cases, run
from support.shared_vectors import NEEDED, VECTORS

pytestmark = [
    NEEDED,
    pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive"),
    pytest.mark.filterwarnings("ignore:Attribute's length must be"),
]
SEED = f"{datetime.now(UTC):%F}"
FEW = 8
CASES = list(cases()) if (VECTORS / "manifest.json").exists() else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_genuine_evidence_when_a_signed_bit_flips_or_it_is_cut_then_refused_and_both_checks_agree(
    case: Case,
) -> None:
    count = run(case, random.Random(SEED + case.name), FEW)
    assert (count.accepted, count.disagreements, count.odd) == ([], [], []), f"seed {SEED}"
    assert count.flips == count.truncations == FEW
