"""`securetf run` with a real CAS: a program reads a volume straight from a bucket of an S3 server."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cloud import PLAINTEXT, SECUR_ETF, Job
from support.object_store import BUCKET, KEY, SECRET, ObjectStore, object_store

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
MEBI = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with object_store(tmp_path_factory.mktemp("moto")) as running:
        yield running


@pytest.fixture
def place(server: ObjectStore, job: Job, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{job.name}"


def packed(job: Job, place: str, files: dict[str, bytes]) -> str:
    """Pack files into the bucket as an owner does; return the new root."""
    source = job.directory / "source"
    for name, content in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    cloud = job.cloud
    done = subprocess.run(
        [
            *SECUR_ETF, "volume", "pack", str(source), place, "--cas", str(cloud.trust_file),
            "--session", job.name, "--volume", "data", "--key", str(cloud.key_file),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def session(job: Job, script: str) -> None:
    job.shell(script, workload=f'volumes = {{ data = "{job.base}:ro" }}', tables="[volumes.data]\n")


def largest(server: ObjectStore, job: Job) -> str:
    return max(server.keys(f"{job.name}/data"), key=lambda key: len(server.get(key)))


def test_program_reads_a_volume_from_the_bucket_and_sees_nothing_of_the_access_key(
    server: ObjectStore, job: Job, place: str
) -> None:
    big = os.urandom(3 * MEBI + 5)
    session(job, f"cat {job.base}/below/train.txt; sha256sum < {job.base}/big; env; : > {job.base}/new")
    packed(job, place, {"below/train.txt": PLAINTEXT, "big": big})
    result = job.run("--volume", f"data={place}")
    (job.directory / "big").write_bytes(big)
    expected = subprocess.run(
        ["sha256sum", job.directory / "big"], capture_output=True, text=True, check=True
    )
    lines = result.stdout.splitlines()
    assert lines[:2] == [PLAINTEXT.decode().rstrip(), f"{expected.stdout.split()[0]}  -"], result.stderr
    assert "Read-only file system" in result.stderr
    for secret in (KEY, SECRET, "AWS_"):
        assert secret not in result.stdout + result.stderr + str(job.report)
    assert not (job.volumes / "data").exists()  # nothing but the bucket held it
    stored = b"".join(server.get(key) for key in server.keys(job.name))
    assert PLAINTEXT not in stored
    assert big[:64] not in stored


def test_pinned_data_set_in_a_bucket_is_read_at_its_root_and_refused_at_another(job: Job, place: str) -> None:
    def text(pin: str, predecessor: str) -> str:
        return job.text(
            ["/bin/sh", "-c", f"cat {job.base}/train.txt"],
            workload=f'volumes = {{ data = "{job.base}:ro" }}',
            tables=f'[volumes.data]\nfreshness = "pinned"\n{pin}',
            predecessor=predecessor,
        )

    job.create(text("", ""))
    root = packed(job, place, {"train.txt": b"reviewed\n"})
    hashed = subprocess.run(
        [*SECUR_ETF, "manifest", "hash", str(job.manifest)], capture_output=True, text=True, check=True
    )
    successor = text(f'root = "{root}"', f'predecessor = "{hashed.stdout.strip()}"')
    job.cloud.client.update_session(successor, job.cloud.owner)
    job.manifest.write_text(successor)
    assert job.run("--volume", f"data={place}").stdout == "reviewed\n"
    packed(job, place, {"train.txt": b"another\n"})
    result = job.run("--volume", f"data={place}")
    assert (result.returncode, result.stdout) == (13, "")
    assert "[STF-1403]" in result.stderr


@pytest.mark.parametrize(("ending", "status"), [("", 1), ("; exit 0", 20)])
def test_object_when_tampered_with_is_an_error_to_the_program_and_names_the_file(
    server: ObjectStore, job: Job, place: str, ending: str, status: int
) -> None:
    session(job, f"cat {job.base}/below/train.txt; cat {job.base}/big > /dev/null{ending}")
    packed(job, place, {"below/train.txt": PLAINTEXT, "big": os.urandom(5 * MEBI)})
    key = largest(server, job)
    data = bytearray(server.get(key))
    data[len(data) // 2] ^= 1
    server.put(key, bytes(data))
    result = job.run("--volume", f"data={place}")
    assert result.returncode == status, result.stderr
    assert result.stdout == PLAINTEXT.decode()  # the other file is served
    assert "/big: Bad message" in result.stderr
    assert "[STF-2010]" in result.stderr
    assert re.search(r"the last: /big: chunk [0-9]+: .*do not authenticate", result.stderr), result.stderr


def test_older_objects_in_the_bucket_are_refused_as_a_rollback_before_the_program_starts(
    server: ObjectStore, job: Job, place: str
) -> None:
    session(job, f"cat {job.base}/train.txt")
    packed(job, place, {"train.txt": b"first\n"})
    old = {key: server.get(key) for key in server.keys(job.name)}
    packed(job, place, {"train.txt": b"second\n"})
    assert job.run("--volume", f"data={place}").stdout == "second\n"
    for key in server.keys(job.name):
        server.delete(key)
    for key, data in old.items():
        server.put(key, data)
    result = job.run("--volume", f"data={place}")
    assert (result.returncode, result.stdout) == (20, "")
    assert "[STF-2011]" in result.stderr


def test_bucket_for_a_volume_that_is_written_is_refused_before_the_cas_is_asked(job: Job, place: str) -> None:
    tables = '[volumes.data]\nwriter = "trainer"\n'
    job.shell("true", workload=f'volumes = {{ data = "{job.base}:rw" }}', tables=tables)
    result = job.run("--volume", f"data={place}", cas=Path("/nonexistent"))
    assert result.returncode == 2
    assert (
        f"data is mounted for writing, and {place} is a bucket, which is mounted read-only" in result.stderr
    )


def test_bucket_that_cannot_be_reached_stops_the_run_with_the_reason(
    job: Job, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session(job, "true")
    packed(job, place, {"train.txt": PLAINTEXT})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(job.directory / "none"))
    result = job.run("--volume", f"data={place}")
    assert result.returncode == 2
    assert "there is no access key for the bucket" in result.stderr
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    result = job.run("--volume", f"data=s3://another/{job.name}")
    assert result.returncode == 21, result.stderr
    assert "there is no such bucket" in result.stderr
