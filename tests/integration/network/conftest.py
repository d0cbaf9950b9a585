"""Two machines (network namespaces), a CAS that both reach, and a session of a server and a client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cloud import Cloud
from support.hosts import Hosts
from support.pair import Pair


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(2) as both:
        yield both


@pytest.fixture(scope="module")
def cloud(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    one = Cloud(tmp_path_factory.mktemp("cloud"), f"{hosts.address}:0")
    yield one
    one.stop()


@pytest.fixture
def pair(cloud: Cloud, hosts: Hosts, tmp_path: Path) -> Iterator[Pair]:
    one = Pair(cloud, hosts, tmp_path)
    yield one
    one.close()
