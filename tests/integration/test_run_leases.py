"""A slow reader of an older state, and a writer that writes and compacts on: two launchers and a real CAS."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from support.cloud import SECUR_ETF, Job, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
SIZE = 6 << 20  # bytes: more than the kernel reads ahead
# Each run writes the file anew, several times: room of older states is used again when nobody has a lease.
WRITER = """
import os, sys
here = sys.argv[1]
for number in range(8):
    file = os.open(f"{here}/model", os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(file, os.urandom(SIZE))
    os.fsync(file)
    os.close(file)
print("written")
"""
READER = """
import hashlib, os, sys, time
here, signal = sys.argv[1:]
file = os.open(f"{here}/model", os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
first = os.pread(file, 10, 0)
open(f"{signal}/opened", "w").close()
while not os.path.exists(f"{signal}/go"):
    time.sleep(0.05)
try:
    rest = os.pread(file, SIZE, 10)
    print("same", hashlib.sha256(first + rest).hexdigest())
except OSError as error:
    print("failed", error.errno)
"""


def command(program: str, *arguments: str) -> str:
    return json.dumps(["/usr/bin/python3", "-S", "-c", program.replace("SIZE", str(SIZE)), *arguments])


@pytest.fixture
def followed(job: Job) -> Job:
    """A volume that `trainer` has written once, and `reader` follows."""
    mounted = f"{job.base}/m"
    job.create(
        f'[session]\nname = "{job.name}"\n[appraisal.insecure_simulation]\nmr_td = ["{job.measurement}"]\n'
        '[volumes.model]\nwriter = "trainer"\nfreshness = "follow"\nexport = ["creator"]\n'
        f"[workloads.trainer]\ncommand = {command(WRITER, mounted)}\n"
        f'volumes = {{ model = "{mounted}:rw" }}\n'
        f"[workloads.reader]\ncommand = {command(READER, mounted, str(job.directory))}\n"
        f'volumes = {{ model = "{mounted}:ro" }}\n'
        'listen = { grpc = { port = 2222, from = ["peer"] } }\n'  # who has a network asks where volumes stand
        '[workloads.peer]\ncommand = ["/bin/true"]\nconnect = ["reader:grpc"]\n'
    )
    job.run()
    return job


def start(job: Job, workload: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [
            *SECUR_ETF, "run", workload, "--manifest", str(job.manifest), "--volumes", str(job.volumes),
            "--cas", str(job.cloud.trust_file), "--insecure-simulation", str(job.cloud.platform),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    job.processes.append(process)
    return process


def kept(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "data").rglob("*") if path.is_file())


def test_reader_that_is_slow_reads_the_state_that_it_opened_while_its_writer_goes_on(followed: Job) -> None:
    before = hashlib.sha256(followed.export("model", "model")).hexdigest()
    reader = start(followed, "reader")
    until(lambda: (followed.directory / "opened").exists() or reader.poll() is not None, 60)
    assert reader.poll() is None, reader.communicate()
    written = followed.run()
    assert (written.returncode, written.stdout) == (0, "written\n"), written.stderr
    assert kept(followed.volumes / "model") > 7 * SIZE, "states that nobody may have opened are leased, too"
    (followed.directory / "go").touch()
    out, err = reader.communicate(timeout=60)
    assert out == f"same {before}\n", err


def test_without_a_reader_the_writer_uses_the_room_of_older_states_again(followed: Job) -> None:
    written = followed.run()
    assert (written.returncode, written.stdout) == (0, "written\n"), written.stderr
    assert kept(followed.volumes / "model") < 5 * SIZE
