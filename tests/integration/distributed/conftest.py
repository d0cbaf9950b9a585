"""Distributed training of the examples on hosts (namespaces): plain, and under the shields as if plain."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from support.cloud import Cloud
from support.distributed import EXAMPLES, Member, Shielded, end, small_data
from support.hosts import Hosts

HOSTS = 5  # a chief, two parameter servers and two workers
SHORT = ("--epochs", "1", "--steps", "60", "--checkpoint-every", "10", "--keep-gradients")
RESULTS = ("losses.txt", "digits.weights.h5")


@dataclass
class Plain:
    """What runs without securetf gave: results by member and file, and what was seen on the wire."""

    results: dict[Member, dict[str, bytes]]
    canaries: dict[str, list[bytes]]


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    with Hosts(HOSTS) as some:
        yield some


@pytest.fixture(scope="session")
def cloud(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A CAS that every host reaches."""
    one = Cloud(tmp_path_factory.mktemp("cloud"), f"{hosts.address}:0")
    yield one
    one.stop()


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of mirrored workers."""
    base = tmp_path_factory.mktemp("data")
    prepare = EXAMPLES / "mnist" / "prepare_data.py"
    subprocess.run([sys.executable, prepare, base / "whole", "--offline"], check=True)
    small_data(base / "whole" / "mnist.npz", base / "arrays")
    return base / "arrays"


@pytest.fixture(scope="session")
def records(arrays: Path) -> Path:
    """The same for the workers of parameter servers."""
    found = arrays.with_name("records")
    prepare = EXAMPLES / "parameter-server" / "prepare_data.py"
    subprocess.run([sys.executable, prepare, arrays / "mnist.npz", found], check=True)
    return found


@pytest.fixture
def shielded(cloud: Cloud, hosts: Hosts, tmp_path: Path) -> Iterator[Callable[[str, list[Member]], Shielded]]:
    """Makes clusters under securetf; what they leave running is ended."""
    made: list[Shielded] = []

    def make(example: str, members: list[Member]) -> Shielded:
        made.append(Shielded(cloud, hosts, example, members, tmp_path))
        return made[-1]

    yield make
    for one in made:
        end(one.tasks)


def weights(raw: bytes) -> list[np.ndarray]:
    """Return the arrays of an HDF5 file of weights."""
    found: list[np.ndarray] = []
    with h5py.File(io.BytesIO(raw)) as file:
        file.visititems(lambda _, one: found.append(one[()]) if isinstance(one, h5py.Dataset) else None)
    return found


def nothing_of(known: dict[str, list[bytes]], wire: Path, volumes: Path) -> None:
    """Check that neither the wire nor the hosts' disks showed a canary."""
    files = [wire, *(path for path in volumes.rglob("*") if path.is_file())]
    assert sum(path.stat().st_size for path in files) > 100_000
    for path in files:
        raw = path.read_bytes()
        found = {name for name, each in known.items() for one in each if one in raw}
        assert not found, f"{path} holds {found}"
