"""`securetf volume rekey`: with a trust file, killed at any point, with a CAS, and beside the program that writes."""

# ruff: noqa: E501  (Manifests and programs)

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from securetf.errors import SecuretfError, VolumeIntegrityError, VolumeKeyError, VolumeRollbackError
from securetf.provisioning import VolumeGrant
from securetf.shields.filesystem import closing, open_volume
from securetf.shields.local_trust import LocalTrust
from support.cloud import SECUR_ETF, Job, until

KILLS = int(os.environ.get("SECURETF_REKEY_KILLS", "12"))


def facts(*argv: str | Path) -> Any:
    done = subprocess.run(
        [*SECUR_ETF, "volume", *map(str, argv), "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Scene:
    """A volume of several epochs with a trust file, and what its files hold."""

    def __init__(self, area: Path, sizes: list[int]) -> None:
        self.area, self.directory = area, area / "v"
        self.trust = LocalTrust.create(area / "trust")
        self.where: list[str | Path] = [self.directory, "--trust-file", self.trust.path]
        self.files = {f"{number:04}": os.urandom(size) for number, size in enumerate(sizes)}
        source = area / "source"
        source.mkdir()
        for name, content in self.files.items():
            (source / name).write_bytes(content)
        for update in (False, True):  # two epochs
            self.pack(source, update=update)
        shutil.rmtree(source)

    def pack(self, source: Path, *, update: bool) -> None:
        with closing(self.open(writable=True)) as volume:
            volume.pack(str(source), update=update)

    def open(self, *, writable: bool) -> Any:
        return open_volume(self.directory, self.trust.grant(writable=writable), self.trust.advance)

    def epochs(self) -> dict[str, int]:
        """The epochs that have chunks, and the bytes of each."""
        folders = (self.directory / "data").iterdir()
        return {one.name: sum(segment.stat().st_size for segment in one.iterdir()) for one in folders}

    def left(self) -> int:
        """Bytes of chunks that are sealed under the older key."""
        since = self.trust.grant(writable=False).key_since
        return sum(size for epoch, size in self.epochs().items() if int(epoch, 16) < since)

    def check(self) -> None:
        with closing(self.open(writable=False)) as volume:
            assert volume.check() == []
            assert {entry.name for entry in volume.ls("/")} == set(self.files)
            for name, content in self.files.items():
                assert volume.cat(name) == content


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path, [0, 10, 2_000, 3_000, 65_536, 700_000])


def refused(directory: Path, grant: VolumeGrant) -> SecuretfError:
    with pytest.raises(SecuretfError) as caught:
        open_volume(directory, grant, None)
    return caught.value


def test_rekey_forgets_the_older_key_which_opens_nothing_of_the_new_state(scene: Scene) -> None:
    old, old_copy = scene.trust.grant(writable=False), scene.area / "old"
    shutil.copytree(scene.directory, old_copy)
    done = facts("rekey", *scene.where)
    assert (done["key_version"], done["writer"]) == (2, None)
    assert done["moved_bytes"] > 700_000
    scene.check()
    new = scene.trust.grant(writable=False)
    assert (new.older_key, new.key_version) == (None, 2)
    assert old.key not in (raw := scene.trust.path.read_bytes())
    assert b"older_key" not in raw
    # Whoever kept the older key has the new storage and knows the new root.
    stolen = msgspec.structs.replace(old, seq=new.seq, root=new.root)
    for version in (1, 2):
        error = refused(scene.directory, msgspec.structs.replace(stolen, key_version=version))
        assert isinstance(error, VolumeIntegrityError), error
        assert "does not authenticate under this volume's key" in error.problem
    # Whoever puts the older storage back, or claims that the older key still counts.
    for grant in (new, msgspec.structs.replace(new, older_key=old.key), stolen):
        assert isinstance(refused(old_copy, grant), VolumeRollbackError)
    downgraded = msgspec.structs.replace(new, seq=old.seq, root=old.root)
    error = refused(old_copy, downgraded)
    assert isinstance(error, VolumeKeyError), error
    assert "under a key that the volume no longer has: key version 2 began" in error.problem


def test_status_says_that_a_rekeying_is_under_way_until_it_has_ended(scene: Scene) -> None:
    def said() -> tuple[int, bool]:
        status = facts("status", *scene.where)
        return status["key_version"], status["rekeying"]

    assert said() == (1, False)
    scene.trust.begin_rekey()
    assert said() == (2, True)
    facts("rekey", *scene.where)
    assert said() == (2, False)


def test_rekey_when_the_volume_was_never_written_says_so(tmp_path: Path) -> None:
    LocalTrust.create(tmp_path / "trust")
    done = subprocess.run(
        [*SECUR_ETF, "volume", "rekey", str(tmp_path / "v"), "--trust-file", str(tmp_path / "trust")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "was never written" in done.stderr
    assert done.returncode == 13


def test_rekey_in_a_bucket_is_refused_before_there_is_a_new_key(scene: Scene) -> None:
    access = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "nowhere"}
    done = subprocess.run(
        [*SECUR_ETF, "volume", "rekey", "s3://bucket/v", *map(str, scene.where[1:])],
        capture_output=True, text=True, check=False, env={**os.environ, **access},
    )  # fmt: skip
    assert "is a bucket, in which nothing is sealed anew" in done.stderr
    assert done.returncode == 2
    assert scene.trust.grant(writable=False).key_version == 1


def test_rekey_of_a_directory_that_is_not_there_makes_none_and_goes_on_with_the_right_one(
    scene: Scene,
) -> None:
    wrong = scene.area / "typo"
    done = subprocess.run(
        [*SECUR_ETF, "volume", "rekey", str(wrong), *map(str, scene.where[1:])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "is not the directory of this volume" in done.stderr
    assert (done.returncode, wrong.exists()) == (2, False)
    scene.check()
    assert facts("rekey", *scene.where)["key_version"] == 2
    scene.check()


@pytest.mark.slow
def test_rekey_when_killed_at_any_point_loses_nothing_and_the_next_run_goes_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [100] * 300 + [30_000] * 300 + [2_000_000] * 100)
    seed = os.environ.get("SECURETF_SEED", str(random.SystemRandom().randrange(1 << 32)))
    choice, killed, left = random.Random(seed), 0, []
    old = scene.trust.grant(writable=False)
    command = [*SECUR_ETF, "volume", "rekey", *map(str, scene.where)]
    for _ in range(KILLS):
        begun = os.listdir(scene.directory / "data")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and os.listdir(scene.directory / "data") == begun:
            time.sleep(0.005)  # until it has begun to write
        time.sleep(choice.uniform(0, 0.7))
        killed += process.poll() is None
        process.kill()
        process.wait()
        scene.check()
        left.append(scene.left())
    last = facts("rekey", *scene.where)
    scene.check()
    print(
        f"SECURETF_SEED={seed}: {killed} kills while it ran, MB left under the older key after each: "
        f"{[size // 1_000_000 for size in left]}; the last run moved {last['moved_bytes'] // 1_000_000} MB"
    )
    assert killed > 0
    new = scene.trust.grant(writable=False)
    assert (new.older_key, scene.left()) == (None, 0)
    error = refused(scene.directory, msgspec.structs.replace(old, seq=new.seq, root=new.root))
    assert isinstance(error, VolumeIntegrityError)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")


def at_cas(job: Job, volume: str) -> list[str | Path]:
    cloud = job.cloud
    return [
        job.volumes / volume, "--cas", cloud.trust_file, "--session", job.name, "--volume", volume,
        "--key", cloud.key_file,
    ]  # fmt: skip


@pytest.mark.root
@needs_root
def test_rekey_of_a_packed_volume_at_the_cas_and_a_program_reads_it_before_between_and_after(
    job: Job,
) -> None:
    job.shell(
        f"cat {job.base}/data/file",
        workload=f'volumes = {{ data = "{job.base}/data:ro" }}',
        tables="[volumes.data]\n",
    )
    content = "".join(f"line {number}\n" for number in range(20_000))
    job.pack("data", {"file": content.encode()})
    cloud = job.cloud
    old = cloud.client.export_grant(job.name, "data", cloud.owner)
    first = job.run()
    begin = subprocess.Popen(
        [*SECUR_ETF, "volume", "rekey", *map(str, at_cas(job, "data"))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(
        lambda: cloud.client.export_grant(job.name, "data", cloud.owner).older_key or begin.poll() is not None
    )
    begin.kill()  # wherever it is
    begin.wait()
    second = job.run()
    done = facts("rekey", *at_cas(job, "data"))
    assert done["key_version"] in (2, 3)  # 3: the first was done before it was killed
    third = job.run()
    for result in (first, second, third):
        assert (result.returncode, result.stdout) == (0, content), result.stderr
    new = cloud.client.export_grant(job.name, "data", cloud.owner)
    assert (new.older_key, new.key == old.key) == (None, False)
    stolen = msgspec.structs.replace(old, seq=new.seq, root=new.root)
    assert isinstance(refused(job.volumes / "data", stolen), VolumeIntegrityError)
    log = str(cloud.client.audit(job.name, cloud.owner).entries)
    assert "volume.rekey" in log
    assert "volume.key-end" in log


@pytest.mark.root
@needs_root
def test_rekey_of_a_volume_that_a_workload_writes_is_done_beside_its_next_run(job: Job) -> None:
    base = job.base
    job.create(
        job.text(
            [
                "/usr/bin/python3", "-S", "-c",
                "import os, time\n"
                f"old = open('{base}/old', 'rb').read() if os.path.exists('{base}/old') else b''\n"
                f"open('{base}/old', 'wb').write(old + os.urandom(3000000))\n"
                "end = time.monotonic() + 3\n"
                "while old and time.monotonic() < end:\n"
                f"    file = open('{base}/log', 'ab'); file.write(b'x' * 1000); file.flush(); os.fsync(file.fileno())\n"
                f"print(len(open('{base}/old', 'rb').read()))\n",
            ],
            workload=f'volumes = {{ model = "{base}:rw" }}',
            tables='[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\n',
        )
    )  # fmt: skip
    assert job.run().stdout == "3000000\n"
    client, owner = job.cloud.client, job.cloud.owner
    old = client.export_grant(job.name, "model", owner)
    begun = facts("rekey", *at_cas(job, "model"))
    assert begun == {"key_version": 2, "writer": "trainer"}
    assert client.export_grant(job.name, "model", owner).older_key == old.key
    result = job.run()
    assert (result.returncode, result.stdout) == (0, "6000000\n"), result.stderr
    assert job.report["volumes"] == {"model": {"writable": True, "freshness": "group", "rekeyed": True}}
    new = client.export_grant(job.name, "model", owner)
    assert (new.key_version, new.older_key) == (2, None)
    assert len(job.export("model", "old")) == 6_000_000
    assert len(job.export("model", "log")) % 1000 == 0
    stolen = msgspec.structs.replace(old, seq=new.seq, root=new.root)
    assert isinstance(refused(job.volumes / "model", stolen), VolumeIntegrityError)
    assert job.run().stdout == "9000000\n"


@pytest.mark.root
@needs_root
def test_rekey_that_a_short_run_does_not_end_is_ended_by_later_ones(job: Job) -> None:
    big = 160_000_000
    job.shell(
        f"test -e {job.base}/big || head -c {big} /dev/urandom > {job.base}/big; sleep $SECONDS_TO_RUN",
        workload=f'volumes = {{ model = "{job.base}:rw" }}\nhost_environment = ["SECONDS_TO_RUN"]',
        tables='[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\n',
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECONDS_TO_RUN", "0")
        assert job.run().returncode == 0
        facts("rekey", *at_cas(job, "model"))
        result = job.run()
        assert result.returncode == 0, result.stderr
        assert "rekeyed" not in job.report["volumes"]["model"]
        client, owner = job.cloud.client, job.cloud.owner
        assert client.export_grant(job.name, "model", owner).older_key is not None
        patch.setenv("SECONDS_TO_RUN", "20")
        assert job.run().returncode == 0
    assert job.report["volumes"]["model"]["rekeyed"] is True
    assert client.export_grant(job.name, "model", owner).older_key is None
    assert len(job.export("model", "big")) == big
