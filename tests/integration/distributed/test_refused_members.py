"""Members with other software, another program or another Manifest: they never join, and the log says why."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import securetf
from securetf import manifest as manifests
from support.distributed import Member, Shielded, Task

from .conftest import SHORT

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts and namespaces"),
]

WORKERS: list[Member] = [("worker", 0), ("worker", 1), ("worker", 2)]


def refused(job: Shielded, task: Task, reason: str) -> None:
    """Check that a member was not let in, that its log says why, and that the others still wait for it."""
    assert task.wait() not in (0, None)
    assert reason in task.said, task.said
    assert "worker/2" in job.cloud.client.members(job.name, job.cloud.owner).missing


def test_worker_when_its_manifest_is_older_never_joins_and_its_log_says_why(
    shielded: Callable[..., Shielded], arrays: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(arrays)
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
    shielded: Callable[..., Shielded], arrays: Path, tmp_path: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(arrays)
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
    shielded: Callable[..., Shielded], arrays: Path
) -> None:
    job = shielded("multi-worker", WORKERS)
    job.create(job.manifest_text(*SHORT))
    job.pack_all(arrays)
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
