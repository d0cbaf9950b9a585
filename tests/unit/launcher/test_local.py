"""`securetf up` with small programs in place of `securetf run`: output, states, who is ended, the status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from securetf import manifest as manifests
from securetf.launcher.local import members, servants
from support.launching import alive, until

CLUSTER = """
[session]
name = "acme/train"
[workloads.chief]
command = ["true"]
tensorflow_cluster = "t"
listen = { grpc = { port = 2222, from = ["ps", "worker"] } }
connect = ["ps:grpc", "worker:grpc"]
[workloads.worker]
command = ["true"]
instances = { minimum = 2, maximum = 4 }
tensorflow_cluster = "t"
listen = { grpc = { port = 2222, from = ["chief", "ps", "worker"] } }
connect = ["chief:grpc", "ps:grpc", "worker:grpc"]
[workloads.ps]
command = ["true"]
tensorflow_cluster = "t"
listen = { grpc = { port = 2222, from = ["chief", "worker"] } }
connect = ["chief:grpc", "worker:grpc"]
[workloads.alone]
command = ["true"]
"""
DRIVER = """
import json, sys
from securetf.launcher.local import Local, Member
scripts = json.loads(sys.argv[1])
found = [Member(name, 0, name.startswith("ps")) for name in scripts]
command = lambda one, progress: ["/bin/sh", "-c", scripts[one.workload].replace("PROGRESS", str(progress))]
sys.exit(Local(found, command).run())
"""


def start(**scripts: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, json.dumps(scripts)],
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(**scripts: str) -> tuple[int, str, str]:
    process = start(**scripts)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_members_when_a_manifest_is_given_are_the_minimum_of_each_workload() -> None:
    manifest = manifests.parse(CLUSTER)
    assert [one.name for one in members(manifest)] == ["chief-0", "worker-0", "worker-1", "ps-0", "alone-0"]
    assert servants(manifest) == {"ps", "worker"}


def test_up_when_members_print_marks_each_line_and_ends_with_0() -> None:
    status, out, err = run(a="echo one; echo two >&2; printf rest", bc="echo three")
    assert status == 0
    assert sorted(out.splitlines()) == ["a-0  | one", "a-0  | rest", "bc-0 | three"]
    assert "a-0  | two" in err
    assert "a-0  * exited 0" in err


def test_up_when_members_tell_their_state_shows_each_change_once() -> None:
    waiting = '{"state": "waiting", "detail": "b-0, c-0"}'
    _, _, err = run(a=f"for i in 1 2; do echo '{waiting}' >&PROGRESS; done")
    assert err.splitlines() == ["a-0 * waiting for b-0, c-0", "a-0 * exited 0"]


def test_up_when_keras_3_fails_as_it_does_says_once_what_helps() -> None:
    error = "(PerReplica:{) with an unsupported type (<class tensorflow.python.distribute.values.PerReplica>)"
    _, _, err = run(a=f"for i in 1 2; do echo '{error}' >&2; done")
    assert err.count("securetf: hint for a-0: Keras 3 cannot `fit`") == 1


def test_up_when_a_member_fails_ends_the_others_and_returns_its_status() -> None:
    status, _, err = run(a="exec sleep 60", b="sleep 0.2; exit 7")
    assert status == 7
    assert "securetf: b-0 failed: ending a-0" in err
    assert "a-0 * exited 143" in err


def test_up_when_only_servers_are_left_ends_them_without_failing() -> None:
    status, _, err = run(chief="sleep 0.3", ps="exec sleep 60")
    assert status == 0, err
    assert "securetf: only servers are left: ending ps-0" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_when_it_is_interrupted_ends_all_and_fails(number: int, tmp_path: Path) -> None:
    process = start(a=f"touch {tmp_path}/a; exec sleep 60", b=f"touch {tmp_path}/b; exec sleep 60")
    until(lambda: (tmp_path / "a").exists() and (tmp_path / "b").exists())
    begin = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number, err
    assert time.monotonic() - begin < 5


def test_up_when_it_is_killed_its_members_end_too(tmp_path: Path) -> None:
    process = start(a=f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec sleep 60")
    until((tmp_path / "pid").exists)
    process.kill()
    process.communicate()
    until(lambda: not alive(int((tmp_path / "pid").read_text())))
