"""MultiWorkerMirroredStrategy on several hosts: plain, and under the shields as if plain."""

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.distributed import Member, Shielded, Unshielded, canaries, end
from support.hosts import Hosts

from .conftest import RESULTS, SHORT, Plain, nothing_of, weights

pytestmark = [
    pytest.mark.root,
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and namespaces"),
]

WORKERS: list[Member] = [("worker", 0), ("worker", 1), ("worker", 2)]
FIT = ("--epochs", "2", "--steps", "6")


@pytest.fixture(scope="module")
def plain_workers(hosts: Hosts, arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """A run of train.py on three hosts, captured; the first weights come from a job without steps."""
    place = tmp_path_factory.mktemp("plain-workers")
    first = Unshielded(hosts, "multi-worker", WORKERS[:1], place / "first", arrays)
    job = Unshielded(hosts, "multi-worker", WORKERS, place, arrays)
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


def test_multi_worker_when_shielded_on_links_that_lose_packets_ends_as_the_plain_run_and_shows_nothing(
    plain_workers: Plain, shielded: Callable[..., Shielded], hosts: Hosts, arrays: Path, tmp_path: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(arrays)
    with hosts.captured(tmp_path / "wire") as wire, hosts.losing(1):
        for task in [job.launch(member) for member in WORKERS]:
            task.succeeded()
    assert {
        member: {name: job.read(member, name) for name in RESULTS} for member in WORKERS
    } == plain_workers.results
    nothing_of(plain_workers.canaries, wire.file, job.volumes)


def test_multi_worker_when_a_launcher_is_killed_the_others_end_and_a_new_start_ends_as_if_nothing_was(
    plain_workers: Plain, shielded: Callable[..., Shielded], hosts: Hosts, arrays: Path, tmp_path: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(arrays)
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


def test_multi_worker_when_certificates_live_shorter_than_the_job_ends_well(
    shielded: Callable[..., Shielded], arrays: Path
) -> None:
    lifetime_s, steps = (20, "4000") if os.environ.get("SECURETF_LONG_TESTS") else (10, "600")
    job = shielded("multi-worker", WORKERS)
    job.create(
        job.manifest_text(
            "--epochs", "1", "--steps", steps, tables=f"[network]\ncertificate_lifetime_s = {lifetime_s}\n"
        )
    )
    job.pack_all(arrays)
    for task in [job.launch(member) for member in WORKERS]:
        task.succeeded(600)
    assert len({job.read(member, "digits.weights.h5") for member in WORKERS}) == 1
    for member in WORKERS:
        report = job.report_of(member)
        program_s = next(one["seconds"] for one in report["steps"] if one["name"] == "program")
        assert program_s > lifetime_s
        assert report["network"]["renewals"] >= program_s // lifetime_s
        assert report["network"]["resumed"] >= 1  # connections went on with a later certificate


def test_fit_of_keras_2_when_shielded_ends_as_the_plain_run(
    shielded: Callable[..., Shielded], hosts: Hosts, arrays: Path, tmp_path: Path
) -> None:
    plain = Unshielded(hosts, "multi-worker", WORKERS, tmp_path / "plain", arrays)
    try:
        tasks = [plain.start(member, *FIT, program="fit.py", TF_USE_LEGACY_KERAS="1") for member in WORKERS]
        for task in tasks:
            task.succeeded()
    finally:
        end(plain.tasks)
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*FIT, program="fit.py", environment='\nTF_USE_LEGACY_KERAS = "1"'))
    job.pack_all(arrays)
    for task in [job.launch(member) for member in WORKERS]:
        task.succeeded()
    for member in WORKERS:
        for name in RESULTS:
            assert job.read(member, name) == plain.read(member, name)


def test_fit_of_keras_3_when_several_workers_run_it_fails_as_the_readme_says(
    hosts: Hosts, arrays: Path, tmp_path: Path
) -> None:
    plain = Unshielded(hosts, "multi-worker", WORKERS[:2], tmp_path, arrays)
    try:
        for task in [plain.start(member, *FIT, program="fit.py") for member in WORKERS[:2]]:
            assert task.wait() == 1
            assert "ValueError: Attempt to convert a value (PerReplica:{" in task.said
    finally:
        end(plain.tasks)
