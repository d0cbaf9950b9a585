"""ParameterServerStrategy on several hosts: plain, shielded, and when a task joins late or is lost."""

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.distributed import Member, Shielded, Task, Unshielded, canaries, end
from support.hosts import Hosts

from .conftest import RESULTS, Plain, nothing_of, weights

pytestmark = [
    pytest.mark.root,
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.xdist_group("clusters"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and namespaces"),
]

CLUSTER: list[Member] = [("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)]
SMALL: list[Member] = [("chief", 0), ("ps", 0), ("worker", 0)]
SERVED, ENDLESS = ("--epochs", "2", "--steps", "20"), ("--epochs", "10000", "--steps", "20")
GRPC_IN_CLEAR = [b"PRI * HTTP/2.0", b"tensorflow.eager", b"/job:worker"]


@pytest.fixture(scope="module")
def plain_servers(
    hosts: Hosts, arrays: Path, records: Path, tmp_path_factory: pytest.TempPathFactory
) -> Plain:
    """A run with parameter servers on five hosts, captured."""
    place = tmp_path_factory.mktemp("plain-servers")
    job = Unshielded(hosts, "parameter-server", CLUSTER, place, records)
    try:
        with hosts.captured(place / "wire") as wire:
            for member in CLUSTER[1:]:
                job.start(member, *SERVED)
            job.start(CLUSTER[0], *SERVED).succeeded()
    finally:
        end(job.tasks)
    with np.load(arrays / "mnist.npz") as file:
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


def learned(job: Shielded) -> None:
    """Check that the loss of the second epoch is below that of the first."""
    first, last = map(float.fromhex, job.read(CLUSTER[0], "losses.txt").decode().split())
    assert last < first < 2.4


def nothing_in_clear(plain: Plain, job: Shielded, wire: Path) -> None:
    """Check for data, for the weights at the end, and for what gRPC and TensorFlow say of themselves."""
    known = {
        "data": plain.canaries["data"],
        "weights": canaries(weights(job.read(CLUSTER[0], "digits.weights.h5"))),
        "gRPC": GRPC_IN_CLEAR,
    }
    nothing_of(known, wire, job.volumes)


def epochs_go_on(chief: Task, more: int = 2) -> None:
    """Wait until the chief has done some more epochs."""
    chief.wait_for(f"epoch {int(re.findall('epoch ([0-9]+):', chief.said)[-1]) + more}:")


@pytest.mark.parametrize(("interceptor", "members"), [("namespace", CLUSTER), ("seccomp", SMALL)])
def test_parameter_servers_when_shielded_learn_and_show_nothing(
    plain_servers: Plain,
    interceptor: str,
    members: list[Member],
    shielded: Callable[..., Shielded],
    hosts: Hosts,
    records: Path,
    tmp_path: Path,
) -> None:
    job = shielded("parameter-server", members)
    job.create(job.manifest_text(*SERVED))
    job.pack_all(records)
    with hosts.captured(tmp_path / "wire") as wire:
        for member in members[1:]:
            job.launch(member, "--interceptor", interceptor)
        job.launch(CLUSTER[0], "--interceptor", interceptor).succeeded()
        end(job.tasks)
    learned(job)
    nothing_in_clear(plain_servers, job, wire.file)
    assert {job.report_of(member)["network"]["interceptor"] for member in members} == {interceptor}


def test_parameter_servers_when_a_worker_is_killed_it_rejoins_and_when_a_server_is_the_chief_ends(
    shielded: Callable[..., Shielded], hosts: Hosts, records: Path, tmp_path: Path
) -> None:
    members = [CLUSTER[0], CLUSTER[1], *CLUSTER[3:]]
    job = shielded("parameter-server", members)
    job.create(job.manifest_text(*ENDLESS))
    job.pack_all(records)
    tasks = {member: job.launch(member) for member in members}
    chief = tasks[CLUSTER[0]]
    chief.wait_for("epoch 2:")
    tasks[CLUSTER[4]].kill()
    chief.wait_for("Putting back a closure after it failed")
    job.launch(CLUSTER[4])
    chief.wait_for("Cluster successfully recovered")
    epochs_go_on(chief)
    view = job.cloud.client.members(job.name, job.cloud.owner)
    generations = {(one.workload, one.instance): one.generation for one in view.members}
    assert generations == {member: 2 if member == CLUSTER[4] else 1 for member in members}
    with hosts.captured(tmp_path / "wire") as wire:
        epochs_go_on(chief, 1)
        tasks[CLUSTER[1]].kill()
        assert chief.wait(60) not in (0, None)
        end(job.tasks)
    assert "UnavailableError" in chief.said
    nothing_of({"gRPC": GRPC_IN_CLEAR}, wire.file, job.volumes)


def test_parameter_servers_when_a_worker_joins_late_a_new_chief_uses_it_and_it_may_leave(
    shielded: Callable[..., Shielded], hosts: Hosts, records: Path, tmp_path: Path
) -> None:
    chief_at, late_at = hosts.addresses[0], hosts.addresses[3]
    members = [CLUSTER[0], CLUSTER[1], *CLUSTER[3:]]
    job = shielded("parameter-server", members)
    lifetime_s = 60  # a busy machine renews late
    network = f"[network]\ncertificate_lifetime_s = {lifetime_s}\n"
    job.create(job.manifest_text(*ENDLESS, spare=1, tables=network))
    job.pack_all(records)
    chief, server, worker = (job.launch(member) for member in members[:3])
    chief.wait_for("epoch 1:")
    with hosts.captured(tmp_path / "before") as wire:
        late = job.launch(members[3])
        late.wait_for("worker 1 is ready")  # TF_CONFIG says so
        epochs_go_on(chief)
    assert not wire.talked(chief_at, late_at)  # TensorFlow's coordinator has a fixed list of workers
    with hosts.captured(tmp_path / "after") as wire:
        chief.kill()
        again = job.launch(members[0])
        again.wait_for("going on with epoch")
        epochs_go_on(again)
    assert wire.talked(chief_at, late_at)
    nothing_of({"gRPC": GRPC_IN_CLEAR}, wire.file, job.volumes)
    late.kill(signal.SIGTERM)
    left = time.time()
    again.wait_for("Putting back a closure after it failed")
    epochs_go_on(again)
    for task in (server, worker, again):
        assert task.process.poll() is None
    view = job.cloud.client.members(job.name, job.cloud.owner)
    ends = {(one.workload, one.instance): (one.generation, one.expires_at) for one in view.members}
    assert ends[members[3]][1] <= left + lifetime_s
    assert {member: generation for member, (generation, _) in ends.items()} == {
        member: 2 if member == members[0] else 1 for member in members
    }
