"""The service as a workload: under the shields, met from another machine, with receipts that hold."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import securetf
from securetf.receipt import verify_receipt
from support.cloud import Cloud, Job
from support.hosts import Hosts
from support.pair import Run
from support.service import MODELS, direct
from support.statement import ask, check

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]

X = [[1.0, 2.0, 3.0, 4.0]]
BODY = json.dumps({"instances": X})
PUBLIC = 8443


def manifest(job: Job) -> str:
    """Return the Manifest of a service with one public port."""
    source = Path(securetf.__file__).parents[1]
    serve = [
        sys.executable,
        "-m",
        "securetf",
        "serve",
        "--models",
        f"{job.base}/m",
        "--rest",
        "127.0.0.1:8501",
    ]
    workload = (
        f'volumes = {{ models = "{job.base}/m:ro" }}\nreceipts = true\n'
        f"[workloads.trainer.outside]\nrest = {{ port = 8501, public = {PUBLIC} }}\n"
    )
    command = ["/usr/bin/env", f"PYTHONPATH={source}", *serve]
    return job.text(command, workload=workload, tables="[volumes.models]\n")


def test_service_when_run_under_the_shields_answers_with_a_receipt_down_to_the_attested_key(tmp_path) -> None:
    with Hosts(2) as hosts:
        cloud = Cloud(tmp_path / "cloud", f"{hosts.address}:0")
        try:
            (tmp_path / "job").mkdir()
            job = Job(cloud, tmp_path / "job")
            job.create(manifest(job))
            root = job.pack("models", {"small/3/model.tflite": (MODELS / "small1.tflite").read_bytes()})
            run = started(hosts, cloud, job)
            try:
                answered(hosts, cloud, job, run, root)
            finally:
                run.process.terminate()
                run.process.wait()
        finally:
            cloud.stop()


def started(hosts: Hosts, cloud: Cloud, job: Job) -> Run:
    """Run the workload on the first host until it is ready."""
    command = [
        sys.executable, "-m", "securetf", "run", "trainer", "--manifest", str(job.manifest),
        "--volumes", str(job.volumes), "--cas", str(cloud.trust_file),
        "--insecure-simulation", str(cloud.platform),
    ]  # fmt: skip
    run = Run(hosts.on(0, command), job.directory / "run.log")
    run.wait_for("securetf: ready")
    return run


def answered(hosts: Hosts, cloud: Cloud, job: Job, run: Run, root: bytes) -> None:
    """Ask from the second host as a customer does, and check answer, statement and receipt."""
    url = f"https://{hosts.addresses[0]}:{PUBLIC}/v1/models/small:predict"
    curl = ["curl", "-sSk", "--max-time", "60", "-D", job.directory / "headers", "-d", BODY]
    curl += ["-H", "Securetf-Receipt: request", url]
    done = subprocess.run(hosts.on(1, [str(one) for one in curl]), capture_output=True, check=True)
    found = np.array(json.loads(done.stdout)["predictions"], np.float32)
    assert found.tobytes() == direct("small1", x=np.array(X, np.float32))["y"].tobytes()
    statement, leaf = ask(hosts.on(1, []), hosts.addresses[0], PUBLIC)
    proved = check(statement, leaf, trust=cloud.client.trust, platform=cloud.platform, session=job.name)
    lines = (job.directory / "headers").read_text().splitlines()
    (token,) = (one.partition(": ")[2] for one in lines if one.lower().startswith("securetf-receipt:"))
    receipt, _ = verify_receipt(token, proved.key)
    assert (receipt.model.name, receipt.model.version, receipt.model.volume) == ("small", 3, "models")
    assert receipt.model.volume_root == root.hex() == proved.binding.volumes["models"].root
    assert receipt.request_sha256 == hashlib.sha256(BODY.encode()).hexdigest()
    assert receipt.response_sha256 == hashlib.sha256(done.stdout).hexdigest()
    assert "1.0, 2.0" not in run.said
