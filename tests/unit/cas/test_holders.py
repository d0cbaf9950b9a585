"""Known holders of leases are bounded in number."""

import pytest

from securetf.cas.service import holders
from securetf.cas.service.holders import Holders

from .conftest import Cas


def test_volumes_beyond_the_limit_are_forgotten_those_first_that_were_found_longest_ago(
    cas: Cas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "MAX_REMEMBERED", 2)
    known, signed = Holders(), cas.signed()
    for volume in (b"a", b"b", b"c"):
        known.remember(volume, cas.key.key_id, None)
    assert [known.has_verified(volume, signed) for volume in (b"a", b"b", b"c")] == [False, True, True]
