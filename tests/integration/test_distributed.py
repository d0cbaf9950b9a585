"""Distributed training of the examples on hosts (namespaces): plain, and under the shields as if plain."""

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

import securetf
from securetf import manifest as manifests
from support.cloud import Cloud
from support.distributed import EXAMPLES, Member, Shielded, Task, Unshielded, canaries, end, small_data
from support.hosts import Hosts

pytestmark = [
    pytest.mark.root,
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and namespaces"),
]

WORKERS: list[Member] = [("worker", 0), ("worker", 1), ("worker", 2)]
CLUSTER: list[Member] = [("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1)]
SHORT = ("--epochs", "1", "--steps", "60", "--checkpoint-every", "10", "--keep-gradients")
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


def nothing_of(known: dict[str, list[bytes]], wire: Path, volumes: Path) -> None:
    """Check that neither the wire nor the hosts' disks showed a canary."""
    files = [wire, *(path for path in volumes.rglob("*") if path.is_file())]
    assert sum(path.stat().st_size for path in files) > 100_000
    for path in files:
        raw = path.read_bytes()
        found = {name for name, each in known.items() for one in each if one in raw}
        assert not found, f"{path} holds {found}"


def test_multi_worker_when_shielded_ends_as_the_plain_run_and_shows_nothing(
    plain_workers: Plain, shielded: Callable[..., Shielded], hosts: Hosts, data: Path, tmp_path: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(data / "arrays")
    with hosts.captured(tmp_path / "wire") as wire:
        for task in [job.launch(member) for member in WORKERS]:
            task.succeeded()
    assert {
        member: {name: job.read(member, name) for name in RESULTS} for member in WORKERS
    } == plain_workers.results
    nothing_of(plain_workers.canaries, wire.file, job.volumes)


def test_parameter_servers_when_shielded_learn_and_show_nothing(
    plain_servers: Plain, shielded: Callable[..., Shielded], hosts: Hosts, data: Path, tmp_path: Path
) -> None:
    job = shielded("parameter-server", CLUSTER)
    job.create(job.manifest_text(*SERVED))
    job.pack_all(data / "records")
    with hosts.captured(tmp_path / "wire") as wire:
        for member in CLUSTER[1:]:
            job.launch(member)
        job.launch(CLUSTER[0]).succeeded()
        end(job.tasks)
    first, last = map(float.fromhex, job.read(CLUSTER[0], "losses.txt").decode().split())
    assert last < first < 2.4
    known = {
        "data": plain_servers.canaries["data"],
        "weights": canaries(weights(job.read(CLUSTER[0], "digits.weights.h5"))),
    }
    nothing_of(known, wire.file, job.volumes)


def test_multi_worker_when_a_launcher_is_killed_the_others_end_and_a_new_start_ends_as_if_nothing_was(
    plain_workers: Plain, shielded: Callable[..., Shielded], hosts: Hosts, data: Path, tmp_path: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(data / "arrays")
    with hosts.captured(tmp_path / "wire") as wire:
        tasks = [job.launch(member) for member in WORKERS]
        tasks[1].wait_for("step 10 of")
        tasks[1].kill()
        killed = time.monotonic()
        for task in (tasks[0], tasks[2]):
            assert task.wait(60) not in (0, None)
            assert "Socket closed" in task.said or "UNAVAILABLE" in task.said or "Unavailable" in task.said
        assert time.monotonic() - killed < 30
        for task in [job.launch(member) for member in WORKERS]:
            task.succeeded()
            assert "going on after step" in task.said
    for member in WORKERS:
        assert {name: job.read(member, name) for name in RESULTS} == plain_workers.results[member]
    view = job.cloud.client.members(job.name, job.cloud.owner)
    assert {one.instance: one.generation for one in view.members} == {0: 2, 1: 2, 2: 2}
    nothing_of(plain_workers.canaries, wire.file, job.volumes)


def test_parameter_servers_when_a_worker_is_killed_it_attests_again_and_rejoins(
    shielded: Callable[..., Shielded], data: Path
) -> None:
    job = shielded("parameter-server", CLUSTER)
    job.create(job.manifest_text("--epochs", "10000", "--steps", "20"))
    job.pack_all(data / "records")
    tasks = {member: job.launch(member) for member in CLUSTER}
    chief = tasks[CLUSTER[0]]
    chief.wait_for("epoch 2:")
    tasks[CLUSTER[4]].kill()
    chief.wait_for("Putting back a closure after it failed")
    job.launch(CLUSTER[4])
    chief.wait_for("Cluster successfully recovered")
    done = chief.said.count("epoch ")
    chief.wait_for(f"epoch {done + 2}:")
    view = job.cloud.client.members(job.name, job.cloud.owner)
    generations = {(one.workload, one.instance): one.generation for one in view.members}
    assert generations == {member: 2 if member == CLUSTER[4] else 1 for member in CLUSTER}


def refused(job: Shielded, task: Task, reason: str) -> None:
    """Check that a member was not let in, that its log says why, and that the others still wait for it."""
    assert task.wait() not in (0, None)
    assert reason in task.said, task.said
    assert "worker/2" in job.cloud.client.members(job.name, job.cloud.owner).missing


def test_worker_when_its_manifest_is_older_never_joins_and_its_log_says_why(
    shielded: Callable[..., Shielded], data: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(data / "arrays")
    old = job.directory / "old.toml"
    old.write_text(job.manifest.read_text())
    before = manifests.hash_text(manifests.load(old))
    text = job.manifest_text("--epochs", "1").replace("[access]", f'predecessor = "{before}"\n[access]', 1)
    job.manifest.write_text(text)
    job.cloud.client.update_session(text, job.cloud.owner)
    waiting = job.launch(WORKERS[0])
    refused(job, job.launch(WORKERS[2], manifest=old), "Manifest")
    waiting.wait_for("waiting for worker/1, worker/2 to attest")


def test_worker_when_its_code_was_changed_never_joins_and_its_log_says_why(
    shielded: Callable[..., Shielded], data: Path, tmp_path: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(data / "arrays")
    waiting = job.launch(WORKERS[0])
    package = Path(securetf.__file__).parent
    shutil.copytree(package, tmp_path / "changed" / package.name)
    with (tmp_path / "changed" / package.name / "launcher" / "run.py").open("a") as file:
        file.write("# one line more\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "changed"))
        refused(job, job.launch(WORKERS[2]), "mr_td")
    waiting.wait_for("waiting for worker/1, worker/2 to attest")


def test_worker_when_its_program_is_not_the_reviewed_one_never_joins_and_its_log_says_why(
    shielded: Callable[..., Shielded], data: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(data / "arrays")
    states = job.cloud.client.read_session(job.name, job.cloud.owner).volumes
    root = next(one.root for one in states if one.name == "code").hex()
    text = job.manifest.read_text().replace(
        '[volumes.code]\nfreshness = "pinned"',
        f'[volumes.code]\nfreshness = "pinned"\nroot = "sha256:{root}"',
    )
    before = manifests.hash_text(manifests.load(job.manifest))
    job.manifest.write_text(text.replace("[access]", f'predecessor = "{before}"\n[access]', 1))
    job.cloud.client.update_session(job.manifest.read_text(), job.cloud.owner)
    waiting = job.launch(WORKERS[0])
    waiting.wait_for("waiting for worker/1, worker/2 to attest")
    job.pack("code", {"train.py": b"print('changed')"})
    refused(job, job.launch(WORKERS[2]), root)


def test_multi_worker_when_certificates_live_shorter_than_the_job_ends_well(
    shielded: Callable[..., Shielded], data: Path
) -> None:
    lifetime_s, steps = (20, "4000") if os.environ.get("SECURETF_LONG_TESTS") else (10, "800")
    job = shielded("multi-worker", WORKERS)
    job.create(
        job.manifest_text(
            "--epochs", "1", "--steps", steps, tables=f"[network]\ncertificate_lifetime_s = {lifetime_s}\n"
        )
    )
    job.pack_all(data / "arrays")
    for task in [job.launch(member) for member in WORKERS]:
        task.succeeded(600)
    assert len({job.read(member, "digits.weights.h5") for member in WORKERS}) == 1
    for member in WORKERS:
        report = job.report_of(member)
        program_s = next(one["seconds"] for one in report["steps"] if one["name"] == "program")
        assert program_s > 2 * lifetime_s
        assert report["network"]["renewals"] >= program_s // lifetime_s


def test_fit_of_keras_2_when_shielded_ends_as_the_plain_run(
    shielded: Callable[..., Shielded], hosts: Hosts, data: Path, tmp_path: Path
) -> None:
    plain = Unshielded(hosts, "multi-worker", WORKERS, tmp_path / "plain", data / "arrays")
    try:
        for task in [
            plain.start(member, *FIT, program="fit.py", TF_USE_LEGACY_KERAS="1") for member in WORKERS
        ]:
            task.succeeded()
    finally:
        end(plain.tasks)
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*FIT, program="fit.py", environment='\nTF_USE_LEGACY_KERAS = "1"'))
    job.pack_all(data / "arrays")
    for task in [job.launch(member) for member in WORKERS]:
        task.succeeded()
    for member in WORKERS:
        for name in RESULTS:
            assert job.read(member, name) == plain.read(member, name)


def test_fit_of_keras_3_when_several_workers_run_it_fails_as_the_readme_says(
    hosts: Hosts, data: Path, tmp_path: Path
) -> None:
    plain = Unshielded(hosts, "multi-worker", WORKERS[:2], tmp_path, data / "arrays")
    try:
        for task in [plain.start(member, *FIT, program="fit.py") for member in WORKERS[:2]]:
            assert task.wait() == 1
            assert "ValueError: Attempt to convert a value (PerReplica:{" in task.said
    finally:
        end(plain.tasks)
