"""Distributed training of the examples on hosts (namespaces), plain and under shields, which change nothing."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from support.cloud import Cloud
from support.distributed import EXAMPLES, Member, Shielded, Unshielded, canaries, end, small_data
from support.hosts import Hosts

pytestmark = [
    pytest.mark.root,
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and namespaces"),
]

WORKERS: list[Member] = [("worker", 0), ("worker", 1), ("worker", 2)]
CLUSTER: list[Member] = [("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)]
SHORT = ("--epochs", "1", "--steps", "12", "--checkpoint-every", "4", "--keep-gradients")
FIT = ("--epochs", "2", "--steps", "6")
SERVED = ("--epochs", "2", "--steps", "20")
RESULTS = ("losses.txt", "digits.weights.h5")


@dataclass
class Plain:
    """What runs without securetf gave: results by member and file, and what was seen on the wire."""

    results: dict[Member, dict[str, bytes]]
    canaries: dict[str, list[bytes]]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Hosts(len(CLUSTER)) as some:
        yield some


@pytest.fixture(scope="module")
def cloud(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A CAS that every host reaches."""
    one = Cloud(tmp_path_factory.mktemp("cloud"), f"{hosts.address}:0")
    yield one
    one.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two directories: `arrays` for workers, `records` for parameter servers' workers."""
    base = tmp_path_factory.mktemp("data")
    prepare = EXAMPLES / "mnist" / "prepare_data.py"
    subprocess.run([sys.executable, prepare, base / "whole", "--offline"], check=True)
    small_data(base / "whole" / "mnist.npz", base / "arrays")
    prepare = EXAMPLES / "parameter-server" / "prepare_data.py"
    subprocess.run([sys.executable, prepare, base / "arrays" / "mnist.npz", base / "records"], check=True)
    return base


def weights(raw: bytes) -> list[np.ndarray]:
    """Return the arrays of an HDF5 file of weights."""
    found: list[np.ndarray] = []
    with h5py.File(io.BytesIO(raw)) as file:
        file.visititems(lambda _, one: found.append(one[()]) if isinstance(one, h5py.Dataset) else None)
    return found


@pytest.fixture(scope="module")
def plain_workers(hosts: Hosts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """A run of train.py on three hosts, captured; the first weights come from a job without steps."""
    place = tmp_path_factory.mktemp("plain-workers")
    first = Unshielded(hosts, "multi-worker", WORKERS[:1], place / "first", data / "arrays")
    job = Unshielded(hosts, "multi-worker", WORKERS, place, data / "arrays")
    try:
        first.start(WORKERS[0], "--steps", "0").succeeded()
        with hosts.captured(place / "wire") as wire:
            for task in [job.start(member, *SHORT) for member in WORKERS]:
                task.succeeded()
    finally:
        end([*first.tasks, *job.tasks])
    known = {"weights": canaries(weights(first.read(WORKERS[0], "digits.weights.h5"))), "gradients": []}
    for member in WORKERS:
        with np.load(io.BytesIO(job.read(member, "gradients.npz"))) as file:
            known["gradients"] += canaries(file.values())
    assert {name: wire.found(each) > len(each) // 5 for name, each in known.items()} == {
        "weights": True,
        "gradients": True,
    }
    return Plain({member: {name: job.read(member, name) for name in RESULTS} for member in WORKERS}, known)


def test_multi_worker_when_plain_gives_all_workers_the_same_weights(plain_workers: Plain) -> None:
    assert len({tuple(result.values()) for result in plain_workers.results.values()}) == 1


@pytest.fixture(scope="module")
def plain_servers(hosts: Hosts, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """A run with parameter servers on five hosts, captured."""
    place = tmp_path_factory.mktemp("plain-servers")
    job = Unshielded(hosts, "parameter-server", CLUSTER, place, data / "records")
    try:
        with hosts.captured(place / "wire") as wire:
            for member in CLUSTER[1:]:
                job.start(member, *SERVED)
            job.start(CLUSTER[0], *SERVED).succeeded()
    finally:
        end(job.tasks)
    with np.load(data / "arrays" / "mnist.npz") as file:
        images = file["x_test"].astype("float32") / np.float32(255)
    known = {
        "weights": canaries(weights(job.read(CLUSTER[0], "digits.weights.h5"))),
        "data": canaries([images]),
    }
    seen = {name: wire.found(each) / len(each) for name, each in known.items()}
    assert seen["weights"] > 0.2, seen
    assert seen["data"] > 0.2, seen
    return Plain({CLUSTER[0]: {name: job.read(CLUSTER[0], name) for name in RESULTS}}, known)


def test_parameter_servers_when_plain_learn(plain_servers: Plain) -> None:
    first, last = map(float.fromhex, plain_servers.results[CLUSTER[0]]["losses.txt"].decode().split())
    assert last < first < 2.4
