"""A vendor's service, and a synthetic platform's collateral, for the tests of endorsements."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from securetf.attester import development_pki as pki
from securetf.endorsements import Endorsements
from securetf.endorsements.cache import Cache
from securetf.endorsements.needs import DcapNeed, PckCa, Tee
from support.vendor import Vendor, running

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    """A server whose routes are empty."""
    with running(tmp_path) as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture(scope="session")
def collateral() -> Endorsements:
    """Collateral of a synthetic platform, good for a month."""
    return pki.endorse(pki.create(NOW, platform_id=bytes(16)), NOW)


@pytest.fixture(scope="session")
def need() -> DcapNeed:
    """What a quote of that platform needs."""
    return DcapNeed(tee=Tee.TDX, fmspc=pki.FMSPC, ca=PckCa.PLATFORM)
