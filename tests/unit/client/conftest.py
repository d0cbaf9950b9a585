"""A service with its backends, and policies that it meets or does not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.outside_backends import grpc_backend, http_backend
from support.outside_proof import Cas, Member, Says, policy_text
from support.outside_service import OutsideService, running


@pytest.fixture(scope="session")
def backends() -> Iterator[dict[str, int]]:
    with http_backend() as http, grpc_backend() as grpc:
        yield {"http/1.1": http, "h2": grpc}


@pytest.fixture
def cas() -> Cas:
    return Cas()


@pytest.fixture
def start(cas: Cas, backends: dict[str, int], tmp_path: Path) -> Iterator[Callable[..., OutsideService]]:
    """Return a function that starts a service saying what it is given."""
    open_ones = []

    def begin(says: Says | None = None, member: Member | None = None) -> OutsideService:
        context = running(member or Member(cas, says), backends, tmp_path)
        open_ones.append(context)
        return context.__enter__()

    yield begin
    for one in open_ones:
        one.__exit__(None, None, None)


@pytest.fixture
def policy(cas: Cas, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a policy for the CAS of `cas`."""

    def write(name: str = "policy.toml", **changes: str) -> Path:
        path = tmp_path / name
        path.write_text(policy_text(cas.trust(tmp_path / "cas.json"), **changes))
        return path

    return write
