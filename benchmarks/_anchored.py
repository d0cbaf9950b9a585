"""A `strict` volume that a CAS anchors, mounted, and threads that write a little and fsync it, repeatedly."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attestation
from securetf.cas_client.trust import save_trust
from securetf.keys import create_owner_key

SESSION = "bench/anchored"
MANIFEST = f"""
[session]
name = "{SESSION}"
[appraisal.insecure_simulation]
mr_td = ["%s"]
[volumes.log]
freshness = "strict"
[workloads.writer]
command = ["true"]
volumes = {{ log = "/log:ro" }}
"""
SEQUENTIAL, TOGETHER = 1, 16  # threads


@contextmanager
def mounted(area: Path) -> Iterator[Path]:
    """Start a CAS on loopback, whose state lies beside the volume, and mount the volume for its owner."""
    area.mkdir()
    (area / "mnt").mkdir()
    bench = attestation.Bench(area)
    try:
        key = create_owner_key(area / "owner.pem")
        bench.client.create_session(MANIFEST % bench.trust.measurement, key)
        save_trust(bench.trust, area / "cas.json")
        command = [
            sys.executable,
            "-m",
            "securetf",
            "volume",
            "mount",
            str(area / "store"),
            str(area / "mnt"),
        ]
        command += ["--writable", "--cas", str(area / "cas.json"), "--key", str(area / "owner.pem")]
        command += ["--session", SESSION, "--volume", "log"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        if b"freshness strict" not in process.stdout.readline():
            raise SystemExit("securetf volume mount failed, or is not strict")
        yield area / "mnt"
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise SystemExit("securetf volume mount ended with an error")
    finally:
        bench.close()


def fsyncs(root: Path, threads: int, count: int) -> float:
    """Append 4 KiB and fsync, `count` times in each thread's own file; fsyncs a second, of all."""
    descriptors = [os.open(root / str(one), os.O_WRONLY | os.O_CREAT | os.O_APPEND) for one in range(threads)]
    failures: list[OSError] = []

    def append(descriptor: int) -> None:
        try:
            for _ in range(count):
                os.write(descriptor, bytes(4096))
                os.fsync(descriptor)
        except OSError as error:
            failures.append(error)

    writers = [threading.Thread(target=append, args=(one,)) for one in descriptors]
    begin = time.perf_counter()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    spent = time.perf_counter() - begin
    for one in descriptors:
        os.close(one)
    if failures:
        raise failures[0]
    return threads * count / spent
