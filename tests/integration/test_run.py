"""`securetf run` end to end: a real CAS process, simulated TEE, volumes and programs; and each way it is refused."""

# ruff: noqa: E501  (Manifests and shell programs)

import os
import signal
from pathlib import Path

import pytest

from support.cloud import PLAINTEXT, Job, alive, until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]


def test_run_when_attested_gives_the_program_its_secrets_and_keeps_its_status(job: Job) -> None:
    job.shell(
        f"wc -c < {job.base}/token; echo ${{#SEED}} $LICENCE; exit 7",
        workload=f'secrets = {{ token = "file:{job.base}/token", seed = "env:SEED", licence = "env:LICENCE" }}',
        tables='[secrets.token]\nkind = "random"\nsize_bytes = 48\n'
        '[secrets.seed]\nkind = "random"\nsize_bytes = 32\n[secrets.licence]\nkind = "value"\n',
    )
    job.cloud.client.import_secret(job.name, "licence", b"granted", job.cloud.owner)
    result = job.run()
    assert (result.returncode, result.stdout) == (7, "48\n64 granted\n"), result.stderr
    assert "INSECURE SIMULATION" in result.stderr
    assert job.report["simulated"] is True
    assert job.report["exit_status"] == 7


def test_run_when_the_program_writes_a_volume_the_next_run_and_the_owner_read_it(job: Job) -> None:
    base = job.base
    job.shell(
        f"cat {base}/data/train.txt >> {base}/model/weights; wc -l < {base}/model/weights; echo x > {base}/data/no",
        workload=f'volumes = {{ data = "{base}/data:ro", model = "{base}/model:rw" }}',
        tables='[volumes.data]\nfreshness = "pinned"\n[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\n',
    )
    job.pack("data", {"train.txt": PLAINTEXT})
    first, second = job.run(), job.run()
    assert (first.stdout, second.stdout) == ("1\n", "2\n"), first.stderr + second.stderr
    assert "Read-only file system" in first.stderr
    assert job.export("model", "weights") == PLAINTEXT * 2
    stored = b"".join(path.read_bytes() for path in job.volumes.rglob("*") if path.is_file())
    assert len(stored) > 2 * len(PLAINTEXT)
    assert b"plaintext" not in stored
    assert b"train.txt" not in stored
    assert b"weights" not in stored
    until(lambda: not Path(base).exists())


def test_run_when_the_program_runs_the_host_sees_no_mount_and_no_plaintext(job: Job) -> None:
    base, ready = job.base, job.directory / "ready"
    job.shell(
        f"cat {base}/data/train.txt > {base}/model/copy; : > {ready}; sleep 60",
        workload=f'volumes = {{ data = "{base}/data:ro", model = "{base}/model:rw" }}\n'
        f'secrets = {{ token = "file:{base}/s/token" }}',
        tables='[volumes.data]\n[volumes.model]\nwriter = "trainer"\n[secrets.token]\nkind = "value"\n',
    )
    job.cloud.client.import_secret(job.name, "token", b"the token itself", job.cloud.owner)
    job.pack("data", {"train.txt": PLAINTEXT})
    process = job.start()
    until(lambda: ready.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    assert base not in Path("/proc/self/mounts").read_text()
    assert [os.listdir(f"{base}/{name}") for name in ("data", "model", "s")] == [[], [], []]
    for file in ("cmdline", "environ"):
        assert b"the token itself" not in Path(f"/proc/{process.pid}/{file}").read_bytes()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 143, out + err
    files = [path for path in job.directory.rglob("*") if path.is_file()]
    assert not any(
        b"the token itself" in path.read_bytes() or b"plaintext" in path.read_bytes() for path in files
    )


def test_run_when_a_signal_is_sent_the_program_handles_it_and_its_last_write_is_kept(job: Job) -> None:
    ready = job.directory / "ready"
    job.shell(
        f"trap 'echo saved > {job.base}/checkpoint; exit 3' TERM; : > {ready}; while :; do sleep 0.05; done",
        workload=f'volumes = {{ model = "{job.base}:rw" }}',
        tables='[volumes.model]\nwriter = "trainer"\nexport = ["creator"]\n',
    )
    process = job.start()
    until(lambda: ready.exists() or process.poll() is not None)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 3, err
    assert job.export("model", "checkpoint") == b"saved\n"


def test_run_when_the_launcher_is_killed_synced_data_stays_and_the_next_run_works(job: Job) -> None:
    base, pid_file = job.base, job.directory / "pid"
    job.create(
        job.text(
            [
                "/usr/bin/python3", "-c",
                "import os, time\n"
                f"if os.path.exists('{base}/kept'): print(open('{base}/kept').read()); raise SystemExit\n"
                f"file = open('{base}/kept', 'w'); file.write('acknowledged'); file.flush(); os.fsync(file.fileno())\n"
                f"open('{pid_file}.new', 'w').write(str(os.getpid())); os.rename('{pid_file}.new', '{pid_file}')\n"
                "time.sleep(60)",
            ],
            workload=f'volumes = {{ model = "{base}:rw" }}',
            tables='[volumes.model]\nwriter = "trainer"\n',
        )
    )  # fmt: skip
    process = job.start()
    until(lambda: pid_file.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.wait()
    until(lambda: not alive(int(pid_file.read_text())))
    assert base not in Path("/proc/self/mounts").read_text()
    result = job.run()
    assert (result.returncode, result.stdout) == (0, "acknowledged\n"), result.stderr
