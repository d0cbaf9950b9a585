"""`securetf volume accept-root`: a backup is refused until its owner accepts it; then nothing leads back."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from securetf.errors import FencedError, VolumeIntegrityError, VolumeRollbackError
from securetf.shields.filesystem import closing, open_volume
from securetf.shields.local_trust import LocalTrust
from support.cloud import SECUR_ETF, Job


def volume_command(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*SECUR_ETF, "volume", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


class Scene:
    """A volume with a trust file that was copied at `old`, and went on to `new`."""

    def __init__(self, area: Path) -> None:
        self.area, self.directory, self.backup, self.newest = (
            area,
            area / "v",
            area / "backup",
            area / "newest",
        )
        self.trust = LocalTrust.create(area / "trust")
        self.where = ["--trust-file", self.trust.path]
        self.write("file", b"old" * 50_000)
        shutil.copytree(self.directory, self.backup)
        self.root = self.trust.grant(writable=False).root.hex()
        self.write("file", b"new" * 50_000)
        self.write("more", b"new")
        shutil.copytree(self.directory, self.newest)
        for path in self.backup.rglob(
            "*"
        ):  # a storage that never forgets: what the volume removed lies there, too
            kept = self.newest / path.relative_to(self.backup)
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, kept)

    def write(self, name: str, content: bytes) -> None:
        source = self.area / "source"
        source.mkdir(exist_ok=True)
        (source / name).write_bytes(content)
        with closing(self.open(self.directory, writable=True)) as volume:
            volume.pack(str(source), update=True)

    def open(self, directory: Path, *, writable: bool) -> Any:
        return open_volume(directory, self.trust.grant(writable=writable), self.trust.advance)

    def files(self, directory: Path, *, writable: bool = False) -> dict[str, bytes]:
        with closing(self.open(directory, writable=writable)) as volume:
            assert volume.check() == []
            return {entry.name: volume.cat(entry.name) for entry in volume.ls("/")}


OLD = {"file": b"old" * 50_000}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_backup_is_refused_until_its_root_is_accepted_and_then_goes_on(scene: Scene) -> None:
    with pytest.raises(VolumeRollbackError):
        scene.open(scene.backup, writable=False)
    shown = volume_command("accept-root", scene.backup, *scene.where)
    assert shown.returncode == 2
    assert f"root sha256:{scene.root}" in " ".join(shown.stderr.split())
    with pytest.raises(VolumeRollbackError):
        scene.open(scene.backup, writable=False)
    done = volume_command("accept-root", scene.backup, scene.root[:16], *scene.where, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["root"] == f"sha256:{scene.root}"
    assert scene.files(scene.backup) == OLD
    assert scene.files(scene.backup, writable=True) == OLD
    with pytest.raises(VolumeRollbackError):
        scene.open(scene.newest, writable=False)


def test_a_storage_that_kept_what_came_after_the_accepted_root_does_not_bring_it_back(scene: Scene) -> None:
    assert volume_command("accept-root", scene.backup, scene.root, *scene.where).returncode == 0
    # Before the first writer: the newest storage leads to the accepted root, and beyond it.
    assert scene.files(scene.newest) == OLD
    assert scene.files(scene.newest, writable=True) == OLD
    assert scene.files(scene.newest) == OLD
    # After it, the backup has not got the first writer's record.
    with pytest.raises(VolumeRollbackError):
        scene.open(scene.backup, writable=False)


def test_what_a_crash_left_beyond_an_accepted_root_is_kept_as_ever(scene: Scene) -> None:
    assert volume_command("accept-root", scene.backup, scene.root, *scene.where).returncode == 0
    accepted, first = scene.trust.grant(writable=False), scene.trust.grant(writable=True)

    def dies(*_: object) -> None:
        raise FencedError("this writer's first record is durable and not anchored", "none")

    with pytest.raises(FencedError):
        open_volume(scene.backup, first, dies)
    with closing(scene.open(scene.backup, writable=True)) as volume:
        later = [commit.epoch for commit in volume.log() if commit.seq > accepted.seq]
    assert later == [first.epoch, first.epoch + 1]
    assert scene.files(scene.backup) == OLD


def test_an_older_state_of_the_directory_that_is_in_use_can_be_accepted_if_it_is_whole(scene: Scene) -> None:
    cut = volume_command("accept-root", scene.directory, scene.root, *scene.where)
    assert cut.returncode == VolumeIntegrityError.exit_code  # its room was given back
    assert "is not whole: 1 damaged, first /file" in " ".join(cut.stderr.split())
    assert scene.files(scene.directory)["more"] == b"new"
    done = volume_command("accept-root", scene.newest, scene.root, *scene.where)
    assert done.returncode == 0, done.stderr
    assert scene.files(scene.newest, writable=True) == OLD


def test_a_backup_that_is_not_whole_is_not_accepted(scene: Scene) -> None:
    segment = next(path for path in (scene.backup / "data").rglob("*") if path.stat().st_size > 100_000)
    with segment.open("r+b") as file:
        file.seek(5000)
        file.write(os.urandom(16))
    done = volume_command("accept-root", scene.backup, scene.root, *scene.where)
    assert done.returncode == VolumeIntegrityError.exit_code
    assert "is not whole: 1 damaged, first /file" in " ".join(done.stderr.split())
    assert scene.files(scene.newest)["more"] == b"new"


def test_a_root_that_the_directory_does_not_hold_or_that_is_anchored_is_refused(scene: Scene) -> None:
    unknown = volume_command("accept-root", scene.backup, "0" * 64, *scene.where)
    assert (unknown.returncode, "no held root begins with" in unknown.stderr) == (2, True)
    anchored = scene.trust.grant(writable=False).root.hex()
    same = volume_command("accept-root", scene.newest, anchored, *scene.where)
    assert (same.returncode, "there is nothing to go back to" in " ".join(same.stderr.split())) == (2, True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")
def test_a_workload_goes_on_from_an_accepted_backup_and_the_cas_has_it_on_record(job: Job) -> None:
    cloud, base = job.cloud, job.base
    job.shell(
        f"cat {base}/count 2>/dev/null; echo x >> {base}/count",
        workload=f'volumes = {{ model = "{base}:rw" }}',
        tables='[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\n',
    )
    assert [job.run().stdout for _ in range(2)] == ["", "x\n"]
    directory, backup = job.volumes / "model", job.volumes.parent / "backup"
    shutil.copytree(directory, backup)
    assert job.run().stdout == "x\nx\n"
    root = cloud.client.export_grant(job.name, "model", cloud.owner).root
    shutil.rmtree(directory)
    shutil.copytree(backup, directory)
    refused = job.run()
    assert "STF-2011" in refused.stderr
    where = ["--cas", cloud.trust_file, "--session", job.name, "--volume", "model", "--key", cloud.key_file]
    shown = " ".join(volume_command("accept-root", directory, *where).stderr.split())
    held = shown.split("root sha256:")[1][:64]
    done = volume_command("accept-root", directory, held, *where)
    assert done.returncode == 0, done.stderr
    assert job.run().stdout == "x\nx\n"
    log = str(cloud.client.audit(job.name, cloud.owner).entries)
    assert "volume.accept-root" in log
    assert root.hex() in log
