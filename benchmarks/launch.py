"""What `securetf run` costs beside the program: time to its first instruction by step, and resident memory.

`python benchmarks/launch.py [--quick] [--json FILE]` as root. A real CAS process on loopback in simulation,
three volumes and a secret. The second program writes and reads 400 MB: memory is measured under work.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from _report import Row, publish
from support.cloud import Cloud, Job

FIRST_INSTRUCTION_S = 1.0
RESIDENT_MB = 120.0
CLOCK = "import time; print(time.clock_gettime(time.CLOCK_BOOTTIME))"
WORK = """
import os, sys
block = os.urandom(1 << 20)
for number in range(4):
    with open(f"{sys.argv[1]}/{number}", "wb") as file:
        for _ in range(100): file.write(block)
os.sync()
for number in range(4):
    with open(f"{sys.argv[1]}/{number}", "rb") as file:
        while file.read(1 << 20): pass
"""


def prepare(cloud: Cloud, directory: Path, program: str) -> Job:
    directory.mkdir()
    job = Job(cloud, directory)
    job.create(
        job.text(
            ["/usr/bin/python3", "-S", "-c", program, f"{job.base}/m"],
            workload=f'volumes = {{ code = "{job.base}/c:ro", data = "{job.base}/d:ro", '
            f'model = "{job.base}/m:rw" }}\n'
            f'secrets = {{ token = "file:{job.base}/s/token" }}',
            tables='[volumes.code]\n[volumes.data]\n[volumes.model]\nwriter = "trainer"\n'
            '[secrets.token]\nkind = "random"\nsize_bytes = 32\n',
        )
    )
    job.pack("code", {"main.py": b"print()\n"})
    job.pack("data", {"data": bytes(1 << 20)})
    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cloud = Cloud(Path(name))
        try:
            rows = measure(cloud, Path(name), 5 if arguments.quick else 21)
        finally:
            cloud.stop()
    publish("securetf run beside the program", rows, arguments.json)


def measure(cloud: Cloud, directory: Path, runs: int) -> list[Row]:
    job = prepare(cloud, directory / "clock", CLOCK)
    seconds: list[float] = []
    steps: dict[str, list[float]] = {}
    for _ in range(runs):
        begin = time.clock_gettime(time.CLOCK_BOOTTIME)
        done = job.run()
        if done.returncode:
            raise SystemExit(done.stderr)
        seconds.append(float(done.stdout) - begin)
        for step in job.report["steps"]:
            steps.setdefault(step["name"], []).append(step["seconds"])
    median = statistics.median(seconds)
    rows = [
        Row(
            name="run to first instruction",
            value=median,
            unit="s",
            target=FIRST_INSTRUCTION_S,
            met=median <= FIRST_INSTRUCTION_S,
        )
    ]
    rows += [Row(name=f"  {name}", value=statistics.median(times), unit="s") for name, times in steps.items()]
    worker = prepare(cloud, directory / "work", WORK)
    done = worker.run()
    if done.returncode:
        raise SystemExit(done.stderr)
    for label, one in (("idle", job), ("400 MB written, read", worker)):
        peak = one.report["resident_memory"]["peak_bytes"] / 1e6
        rows.append(
            Row(name=f"resident, {label}", value=peak, unit="MB", target=RESIDENT_MB, met=peak <= RESIDENT_MB)
        )
    return rows


if __name__ == "__main__":
    main()
