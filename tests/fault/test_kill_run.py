"""kill -9 of launcher and CAS at random points while a program commits: nothing acknowledged is lost.

`SECURETF_KILLS=200` gives the number of rounds; the seed is printed, and `SECURETF_SEED` repeats one.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from test_run import Cloud, Job, alive, until

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts"),
]
ROUNDS = int(os.environ.get("SECURETF_KILLS", "12"))
SECRET = b"the secret that an owner imported, 7c9f1b"

PROGRAM = """
import os, sys
base, host = sys.argv[1:]
def read(path):
    return int(open(path).read()) if os.path.exists(path) else 0
def write(path, number):
    with open(path + ".new", "w") as file:
        file.write(str(number)); file.flush(); os.fsync(file.fileno())
    os.rename(path + ".new", path)
    directory = os.open(os.path.dirname(path), os.O_RDONLY); os.fsync(directory); os.close(directory)
kept, acknowledged = read(base + "/counter"), read(host + "/acknowledged")
print(f"kept {kept} acknowledged {acknowledged}", flush=True)
if kept < acknowledged: sys.exit(99)
if "stop" in os.listdir(host): sys.exit(0)
open(host + "/pid", "w").write(str(os.getpid()))
while True:
    kept += 1
    write(base + "/counter", kept)
    write(host + "/acknowledged", kept)
"""


def test_run_when_launcher_or_cas_is_killed_at_any_point_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    seed = int(os.environ.get("SECURETF_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"SECURETF_SEED={seed} SECURETF_KILLS={ROUNDS}")
    choice = random.Random(seed)
    cloud, host = Cloud(tmp_path), tmp_path / "host"
    host.mkdir()
    (tmp_path / "job").mkdir()
    job = Job(cloud, tmp_path / "job")
    job.create(
        job.text(
            ["/usr/bin/python3", "-S", "-c", PROGRAM, f"{job.base}/m", str(host)],
            workload=f'volumes = {{ model = "{job.base}/m:rw" }}\n'
            f'secrets = {{ token = "file:{job.base}/s/t" }}',
            tables='[volumes.model]\nwriter = "trainer"\n[secrets.token]\nkind = "value"\n',
        )
    )
    cloud.client.import_secret(job.name, "token", SECRET, cloud.owner)
    try:
        for _ in range(ROUNDS):
            one_round(cloud, job, host, choice)
        (host / "stop").touch()
        last = job.run()
        assert last.returncode == 0, last.stdout + last.stderr
        print(last.stdout)
        assert int(last.stdout.split()[3]) > ROUNDS // 4  # work was done and acknowledged between the kills
        for path in (one for one in tmp_path.rglob("*") if one.is_file()):
            assert SECRET not in path.read_bytes(), path
    finally:
        cloud.stop()


def one_round(cloud: Cloud, job: Job, host: Path, choice: random.Random) -> None:
    """Start the launcher; perhaps kill the CAS and start it again; kill the launcher."""
    (host / "pid").unlink(missing_ok=True)
    process = job.start()
    time.sleep(choice.uniform(0.0, 1.2))
    if choice.random() < 0.5:
        cloud.cas.kill()
        cloud.cas.wait()
        cloud.cas.stdout.close()
        cloud.start(cloud.ready["url"].removeprefix("https://"))
        time.sleep(choice.uniform(0.0, 0.6))  # the program goes on with the CAS that came back
    process.send_signal(signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode not in (0, 99), f"{out}{err}"  # 99: something acknowledged was lost
    if (host / "pid").exists() and (pid := (host / "pid").read_text()):
        until(lambda: not alive(int(pid)))
