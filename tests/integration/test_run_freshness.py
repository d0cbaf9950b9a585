"""`strict` and `async` from the Manifest to the CAS, with everything killed at once."""

# ruff: noqa: E501  (Manifests and programs)

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cloud import SECUR_ETF, Cloud, Job, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
WRITE = (
    "import os, time\n"
    "file = os.open('{base}/file', os.O_WRONLY | os.O_CREAT)\n"
    "os.write(file, b'kept')\n"
    "{promise}(file)\n"
    "os.open('{done}', os.O_WRONLY | os.O_CREAT)\n"
    "time.sleep(60)\n"
)
# Says how long each fsync took, and when it began to wait.
FSYNCS = (
    "import os, time\n"
    "file = os.open('{base}/file', os.O_WRONLY | os.O_CREAT)\n"
    "def sync():\n"
    "    begun = time.monotonic()\n"
    "    os.write(file, b'x'); os.fsync(file)\n"
    "    return time.monotonic() - begun\n"
    "sync(); open('{ready}', 'w').close()\n"
    "while not os.path.exists('{gone}'): time.sleep(0.01)\n"
    "begun, quick, waited = time.monotonic(), 0, 0\n"
    "while time.monotonic() - begun < 40 and waited < 3:\n"
    "    waited = sync(); quick += waited < 1\n"
    "    if waited < 1: last = time.monotonic() - begun\n"
    "    time.sleep(0.05)\n"
    "print(quick, last, waited)\n"
)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Job]:
    """A job with a CAS of its own, which the test kills."""
    cloud = Cloud(tmp_path)
    (tmp_path / "job").mkdir()
    job = Job(cloud, tmp_path / "job")
    yield job
    for process in job.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    cloud.stop()


def create(job: Job, freshness: str, program: str, **places: Path) -> None:
    job.create(
        job.text(
            ["/usr/bin/python3", "-S", "-c", program.format(base=job.base, **places)],
            workload=f'volumes = {{ model = "{job.base}:rw" }}',
            tables=f'[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\nfreshness = "{freshness}"\n',
        )
    )


def kill_cas(job: Job) -> None:
    job.cloud.cas.kill()
    job.cloud.cas.wait()
    job.cloud.cas.stdout.close()


def restart_cas(job: Job) -> None:
    job.cloud.start(job.cloud.ready["url"].removeprefix("https://"))


def test_run_strict_when_all_is_killed_right_after_close_the_file_is_in_the_anchored_state(own: Job) -> None:
    done = own.directory / "done"
    create(own, "strict", WRITE.replace("{promise}", "os.close"), done=done)
    process = own.start()
    until(lambda: done.exists() or process.poll() is not None)
    process.kill()
    kill_cas(own)
    process.communicate()
    restart_cas(own)
    assert own.export("model", "file") == b"kept"
    status = subprocess.run(
        [*SECUR_ETF, "volume", "status", str(own.volumes / "model"), "--json", "--cas", str(own.cloud.trust_file),
         "--session", own.name, "--volume", "model", "--key", str(own.cloud.key_file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(status.stdout)["freshness"] == "strict"


def test_run_async_fsync_needs_no_cas_for_five_seconds_then_waits_and_the_report_names_the_freshness(
    own: Job,
) -> None:
    ready, gone = own.directory / "ready", own.directory / "gone"
    create(own, "async", FSYNCS, ready=ready, gone=gone)
    process = own.start()
    until(lambda: ready.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    kill_cas(own)
    gone.touch()
    # The first fsync that waits ends when the CAS is back: not before it has waited for three seconds.
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(9)
    restart_cas(own)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    quick, last, waited = map(float, out.split())
    print(
        f"{quick:.0f} fsyncs in {last:.1f} s without a CAS, then one waited for {waited:.1f} s",
        file=sys.stderr,
    )
    assert quick > 10
    assert 3.5 < last < 6.5
    assert own.report["volumes"] == {"model": {"writable": True, "freshness": "async"}}
    assert own.export("model", "file") == b"x" * (int(quick) + 2)
