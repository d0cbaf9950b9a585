"""ParameterServerStrategy on several hosts: plain, shielded, and when a task joins late or is lost."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.cloud import until
from support.distributed import PATIENCE_S, Member, Shielded, Task, Unshielded, canaries, end
from support.hosts import Hosts

from .conftest import RESULTS, Plain, nothing_of, weights

pytestmark = [
    pytest.mark.root,
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and namespaces"),
]

CLUSTER: list[Member] = [("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)]
SMALL: list[Member] = [("chief", 0), ("ps", 0), ("worker", 0)]
SERVED, ENDLESS = ("--epochs", "2", "--steps", "20"), ("--epochs", "10000", "--steps", "20")
LIFETIME_S = 60  # of certificates; a busy machine renews late
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
        "data": canaries([images], distinct=10),  # scikit-learn's digits have 17 shades
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


def test_parameter_servers_when_tasks_join_late_are_lost_and_leave_go_on_as_documented(
    shielded: Callable[..., Shielded], hosts: Hosts, records: Path, tmp_path: Path
) -> None:
    chief, server, worker, late = members = [CLUSTER[0], CLUSTER[1], *CLUSTER[3:]]
    job = shielded("parameter-server", members)
    network = f"[network]\ncertificate_lifetime_s = {LIFETIME_S}\n"
    job.create(job.manifest_text(*ENDLESS, spare=1, tables=network))
    job.pack_all(records)
    tasks = {member: job.launch(member) for member in (chief, server, worker)}
    tasks[chief].wait_for("epoch 1:")
    joins_late(job, tasks, late, tmp_path / "late")
    with hosts.captured(tmp_path / "lost") as wire:
        tasks[chief].kill()
        tasks[chief] = job.launch(chief)
        tasks[chief].wait_for("going on with epoch")
        epochs_go_on(tasks[chief])
        assert wire.talked(
            hosts.addresses[0], hosts.addresses[3]
        )  # TF_CONFIG of the new chief has the late one
        is_killed_and_rejoins(job, tasks, late)
        leaves(job, tasks, late)
        tasks[server].kill()
        assert tasks[chief].wait(60) not in (0, None)
    assert "UnavailableError" in tasks[chief].said
    assert tasks[worker].process.poll() is None  # waits for ever, as in plain TensorFlow
    end(job.tasks)
    nothing_of({"gRPC": GRPC_IN_CLEAR}, wire.file, job.volumes)


def generations(job: Shielded) -> dict[Member, int]:
    """Return how often each member attested anew."""
    members = job.cloud.client.members(job.name, job.cloud.owner).members
    return {(one.workload, one.instance): one.generation for one in members}


def joins_late(job: Shielded, tasks: dict[Member, Task], late: Member, wire: Path) -> None:
    """Let a worker above `minimum` join: it is a member with TF_CONFIG, and the chief does not use it."""
    with job.hosts.captured(wire) as seen:
        tasks[late] = job.launch(late)
        tasks[late].wait_for("worker 1 is ready")  # its index is from TF_CONFIG
        epochs_go_on(tasks[CLUSTER[0]])
    assert not seen.talked(job.hosts.addresses[0], job.hosts.addresses[3])
    assert generations(job) == dict.fromkeys(tasks, 1)


def is_killed_and_rejoins(job: Shielded, tasks: dict[Member, Task], lost: Member) -> None:
    """Kill a worker: the chief goes on, and uses it again when it was started and attested again."""
    chief = tasks[CLUSTER[0]]
    tasks[lost].kill()
    chief.wait_for("Putting back a closure after it failed")
    tasks[lost] = job.launch(lost)
    chief.wait_for("Cluster successfully recovered")
    epochs_go_on(chief)
    assert generations(job) == {one: 2 if one in (CLUSTER[0], lost) else 1 for one in tasks}


def leaves(job: Shielded, tasks: dict[Member, Task], leaving: Member) -> None:
    """Stop a worker for good: the others go on, and it is a member no more, before its certificate ends."""
    chief = tasks[CLUSTER[0]]
    failed = chief.said.count("Putting back a closure after it failed")

    def ends() -> int:
        members = job.cloud.client.members(job.name, job.cloud.owner).members
        return next(one.expires_at for one in members if (one.workload, one.instance) == leaving)

    certificate_ends = ends()
    tasks[leaving].kill(signal.SIGTERM)
    until(lambda: chief.said.count("Putting back a closure after it failed") > failed, PATIENCE_S)
    epochs_go_on(chief)
    until(lambda: ends() < certificate_ends, PATIENCE_S)
