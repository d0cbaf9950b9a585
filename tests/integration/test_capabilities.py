"""The capabilities that deploy/ leaves to the launcher are enough for all that it does."""

# ruff: noqa: E501  (Manifests and shell programs)

import os
import re
from pathlib import Path

import pytest
import yaml

from support.cloud import PLAINTEXT, Job

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")]
DEPLOY = Path(__file__).parents[2] / "deploy"


def of_unit() -> list[str]:
    text = (DEPLOY / "systemd" / "securetf@.service").read_text()
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    return [name.removeprefix("CAP_") for name in line.split()]


def of_pod() -> list[str]:
    pod = yaml.safe_load((DEPLOY / "kubernetes" / "workers.yaml").read_text())["spec"]["template"]["spec"]
    return list(pod["containers"][0]["securityContext"]["capabilities"]["add"])


def test_capabilities_when_compared_are_the_same_in_unit_and_pod() -> None:
    assert sorted(of_unit()) == sorted(of_pod())


def test_run_when_the_launcher_has_only_the_units_capabilities_does_all_that_a_member_does(job: Job) -> None:
    job.shell(
        f"cat {job.base}/data/train.txt > {job.base}/model/copy; grep -E '^Cap(Eff|Bnd)' /proc/self/status; id -u",
        workload=f'volumes = {{ data = "{job.base}/data:ro", model = "{job.base}/model:rw" }}\nuser_id = 4242\n'
        'listen = { grpc = { port = 2222, from = ["trainer"] } }\nconnect = ["trainer:grpc"]\n'
        "instances = { minimum = 2, maximum = 2 }",
        tables='[volumes.data]\n[volumes.model]\nwriter = "trainer"\nper_instance = true\nexport = ["creator"]\n',
    )
    job.pack("data", {"train.txt": PLAINTEXT})
    kept = ",".join(f"+{name.lower()}" for name in of_unit())
    command = ["setpriv", f"--bounding-set=-all,{kept}", f"--inh-caps=-all,{kept}", "--"]
    process = job.start("--interceptor", "namespace", before=command)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = out.split()
    assert lines == ["CapEff:", "0" * 16, "CapBnd:", "0" * 16, "4242"]
    assert job.export("model.0", "copy") == PLAINTEXT
