"""The deployment files: their schemas hold, and what they start is what `securetf run` understands."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from securetf.cli.run import command as run_command

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = "1.37"
REFUSALS = {2, 10, 11, 12, 13, 16, 20}  # docs/reference/exit-codes.md: trying again changes nothing


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Read the arguments after `securetf run` as the command does; it raises on unknown ones."""
    return run_command.make_context("run", list(arguments), resilient_parsing=False).params


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / name).read_text())
    return found


def jobs() -> dict[str, dict[str, Any]]:
    """Return the specification of each Job, alone or in the JobSet."""
    found = {"workers.yaml": document("workers.yaml")["spec"]}
    for one in document("parameter-server.yaml")["spec"]["replicatedJobs"]:
        found[one["name"]] = one["template"]["spec"]
    return found


def test_job_when_checked_against_the_schema_of_kubernetes_is_valid() -> None:
    kubernetes_validate.validate(document("workers.yaml"), KUBERNETES, strict=True)
    for spec in jobs().values():
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}, "spec": spec}
        kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_job_set_when_read_ends_with_the_chief_and_has_only_keys_of_its_definition() -> None:
    """The keys were checked against the CRD v1alpha2 of kubernetes-sigs/jobset; docs/how-to/deploy.md."""
    found = document("parameter-server.yaml")
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(found["spec"]) == {"successPolicy", "failurePolicy", "network", "replicatedJobs"}
    assert found["spec"]["successPolicy"] == {"operator": "All", "targetReplicatedJobs": ["chief"]}
    assert [set(one) for one in found["spec"]["replicatedJobs"]] == [{"name", "replicas", "template"}] * 3
    assert [one["name"] for one in found["spec"]["replicatedJobs"]] == ["chief", "ps", "worker"]


@pytest.mark.parametrize("name", ["workers.yaml", "chief", "ps", "worker"])
def test_pod_when_started_runs_the_shield_as_its_first_process_with_what_it_needs(name: str) -> None:
    spec = jobs()[name]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["securetf"]  # no shell around it: process 1
    assert container["args"][0] == "run"
    found = parsed([word.replace("$(INSTANCE)", "0") for word in container["args"][1:]])
    assert found["workload"] == ("worker" if name == "workers.yaml" else name)
    assert found["tunnel"] == f"$(POD_IP):{container['ports'][0]['containerPort']}"
    assert {one["name"] for one in container["env"]} == {"INSTANCE", "POD_IP"}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    assert {"SYS_ADMIN", "NET_ADMIN"} <= set(container["securityContext"]["capabilities"]["add"])
    assert container["securityContext"]["privileged"] is False
    assert any(device.endswith("/fuse") for device in container["resources"]["limits"])
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert (rule["action"], set(rule["onExitCodes"]["values"])) == ("FailJob", REFUSALS)
    assert pod["restartPolicy"] == "Never"  # what podFailurePolicy needs
    assert {one["name"] for one in pod["volumes"]} == {one["name"] for one in container["volumeMounts"]}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_unit_when_verified_by_systemd_has_nothing_to_complain_of(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "securetf@.service").read_text()
    unit = tmp_path / "securetf@.service"
    unit.write_text(text.replace("/usr/bin/securetf", "/usr/bin/true"))  # which must exist for it
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"{tmp_path}/securetf@worker-0.service"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_unit_when_started_calls_run_with_the_member_of_its_configuration() -> None:
    lines = (DEPLOY / "systemd" / "securetf@.service").read_text().replace("\\\n", " ").splitlines()
    entries = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    settings = dict(
        line.split("=", 1) for line in (DEPLOY / "systemd/worker-0.conf").read_text().splitlines()
    )
    words = entries["ExecStart"].split()
    for name, value in settings.items():
        words = [word.replace(f"${{{name}}}", value) for word in words]
    assert words[:2] == ["/usr/bin/securetf", "run"]
    found = parsed(words[2:])
    assert (found["workload"], found["instance"], found["tunnel"]) == ("worker", 0, "10.0.0.11:15443")
    assert {int(code) for code in entries["RestartPreventExitStatus"].split()} == REFUSALS
    assert entries["KillMode"] == "mixed"


def slurm(tmp_path: Path, rank: int, members: str) -> "subprocess.CompletedProcess[str]":
    """Run the batch script with stand-ins for Slurm's srun, for securetf and for the resolver."""
    stand_ins = {
        "srun": 'shift 2; SLURM_PROCID=$RANK SLURMD_NODENAME=node-7 exec "$@"',
        "securetf": 'printf "%s\\n" "$@"',
        "getent": 'test "$*" = "ahostsv4 node-7" && echo "10.0.0.7 STREAM node-7"',
    }
    for name, script in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "RANK": str(rank), "MEMBERS": members, "SECURETF": "securetf",
    }  # fmt: skip
    return subprocess.run(
        ["bash", str(DEPLOY / "slurm" / "train.sbatch")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rank", "member"),
    [(0, ("chief", 0)), (1, ("ps", 0)), (2, ("ps", 1)), (3, ("worker", 0)), (4, ("worker", 1))],
)
def test_slurm_script_when_a_task_runs_starts_its_member(
    tmp_path: Path, rank: int, member: tuple[str, int]
) -> None:
    done = slurm(tmp_path, rank, "chief:1 ps:2 worker:2")
    assert done.returncode == 0, done.stderr
    found = parsed(done.stdout.splitlines()[1:])
    assert (found["workload"], found["instance"]) == member
    assert found["tunnel"] == "10.0.0.7:15443"


def test_slurm_script_when_there_are_more_tasks_than_members_fails_saying_so(tmp_path: Path) -> None:
    done = slurm(tmp_path, 3, "worker:3")
    assert done.returncode == 2
    assert "MEMBERS (worker:3) has no member for task 3" in done.stderr


def test_slurm_script_when_checked_is_clean() -> None:
    script = str(DEPLOY / "slurm" / "train.sbatch")
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)
