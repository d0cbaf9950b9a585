"""`securetf up`: a whole Manifest on this machine, each member in its own shield on the loopback."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from securetf.attester.measurement import software_measurement
from support.cloud import SECUR_ETF, Cloud
from support.pair import CLIENT, PORT

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]
ONCE = f"""
import socket
server = socket.create_server(("", {PORT}))
print("listening", flush=True)
stream, peer = server.accept()
with stream, stream.makefile("rwb") as file:
    for line in file:
        file.write(b"%d bytes\\n" % len(line)); file.flush()
print("served", peer[0])
"""
WORKER = f"""
import json, os, socket, time
config = json.loads(os.environ["TF_CONFIG"])
me = config["task"]["index"]
open(os.environ["OUT"] + "/mine", "w").write(str(me))
addresses = config["cluster"]["worker"]
if me == 0:
    server = socket.create_server(("", {PORT}))
    for _ in addresses[1:]:
        stream, peer = server.accept()
        print("from", peer[0] == addresses[int(stream.recv(1))].rpartition(":")[0])
else:
    host, _, port = addresses[0].rpartition(":")
    while True:
        try:
            stream = socket.create_connection((host, int(port)), timeout=20)
            stream.sendall(str(me).encode())
            stream.recv(1)  # in a namespace, a peer that does not listen yet shows here
            break
        except OSError:
            time.sleep(0.1)
"""

SAVES = """
import time
print("ready", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    print("saving", flush=True)
    time.sleep(2)
    print("saved", flush=True)
"""
JOINS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
print("ready", flush=True)
signal.pause()
"""


class Session:
    """A session and `securetf up` for it."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self.cloud, self.directory = cloud, directory
        self.base = f"/securetf-test-{uuid.uuid4().hex}"
        self.name = f"acme/{uuid.uuid4().hex}"
        (directory / "volumes").mkdir()
        (directory / "reports").mkdir()

    def create(self, workloads: str) -> None:
        text = (
            f'[session]\nname = "{self.name}"\n[appraisal.insecure_simulation]\n'
            f'mr_td = ["{software_measurement().hex()}"]\n{workloads}'
        )
        (self.directory / "manifest.toml").write_text(text)
        self.cloud.client.create_session(text, self.cloud.owner)

    def command(self, *options: str) -> list[str]:
        return [
            *SECUR_ETF, "up", "--manifest", str(self.directory / "manifest.toml"),
            "--cas", str(self.cloud.trust_file), "--insecure-simulation", str(self.cloud.platform),
            "--volumes", str(self.directory / "volumes"), "--reports", str(self.directory / "reports"),
            *options,
        ]  # fmt: skip

    def up(self, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*options), capture_output=True, text=True, timeout=120, check=False
        )

    def interrupted_when_ready(self, ready: int) -> tuple[int, str, str]:
        """Send SIGINT when so many members have said that they are ready; return status and output."""
        with (self.directory / "said").open("w+") as said:
            up = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=said, text=True)
            lines: list[str] = []
            for line in up.stdout or ():
                lines.append(line)
                if line.endswith("| ready\n"):
                    ready -= 1
                    if not ready:
                        up.send_signal(signal.SIGINT)
            status = up.wait(120)
            said.seek(0)
            return status, "".join(lines), said.read()


@pytest.fixture
def session(cloud: Cloud, tmp_path: Path) -> Iterator[Session]:
    return Session(cloud, tmp_path)


def pair(server: str, client: str, *arguments: str) -> str:
    return (
        f"[workloads.server]\ncommand = {json.dumps([sys.executable, '-c', server])}\n"
        f'listen = {{ lines = {{ port = {PORT}, from = ["client"] }} }}\n'
        f"[workloads.client]\ncommand = {json.dumps([sys.executable, '-c', client, *arguments])}\n"
        'connect = ["server:lines"]\n'
    )


@pytest.mark.parametrize("interceptor", ["namespace", "seccomp"])
def test_up_when_members_talk_runs_them_in_their_shields_to_the_end(
    session: Session, interceptor: str
) -> None:
    session.create(pair(ONCE, CLIENT, "2", "0"))
    done = session.up("--interceptor", interceptor)
    assert done.returncode == 0, done.stdout + done.stderr
    out = done.stdout.splitlines()
    assert "server-0 | listening" in out
    assert "client-0 | 1 4101 bytes" in out
    for state in ("attesting", "running", "exited 0"):
        assert f"client-0 * {state}" in done.stderr
    report = json.loads((session.directory / "reports" / "client-0.json").read_text())
    assert (report["network"]["interceptor"], report["network"]["outbound"]) == (interceptor, 1)


def test_up_when_a_member_fails_ends_the_rest_and_returns_its_status(session: Session) -> None:
    session.create(pair(ONCE, "raise SystemExit(7)"))
    done = session.up()
    assert done.returncode == 7, done.stdout + done.stderr
    assert "client-0 failed: ending server-0" in done.stderr


def test_up_when_interrupted_lets_each_member_end_by_itself_and_ends_servers_that_cannot(
    session: Session,
) -> None:
    def member(name: str, program: str, peers: list[str]) -> str:
        return (
            f"[workloads.{name}]\ncommand = {json.dumps([sys.executable, '-c', program])}\n"
            f'tensorflow_cluster = "training"\nlisten = {{ grpc = {{ port = {PORT}, from = {peers} }} }}\n'
            f"connect = {[peer + ':grpc' for peer in peers]}\n"
        )

    first = SAVES.replace("time.sleep(2)", "raise SystemExit(130)")
    session.create(
        member("chief", first, ["ps", "worker"])
        + member("ps", JOINS, ["chief", "worker"])
        + member("worker", JOINS, ["chief", "ps"])
        + f"[workloads.beside]\ncommand = {json.dumps([sys.executable, '-c', SAVES])}\n"
    )
    status, out, said = session.interrupted_when_ready(4)
    assert status == 130, out + said
    assert "beside-0 | saved" in out, out + said
    for end in ("chief-0  * exited 130", "beside-0 * exited 0", "ps-0     * exited 143"):
        assert end in said, out + said
    assert "failed" not in said


def test_up_when_a_cluster_is_complete_gives_each_its_tf_config_and_its_own_volume(session: Session) -> None:
    command = json.dumps([sys.executable, "-c", WORKER])
    session.create(
        f"[workloads.worker]\ncommand = {command}\ninstances = {{ minimum = 3, maximum = 3 }}\n"
        f'environment = {{ OUT = "{session.base}/out" }}\nvolumes = {{ result = "{session.base}/out:rw" }}\n'
        f'listen = {{ grpc = {{ port = {PORT}, from = ["worker"] }} }}\nconnect = ["worker:grpc"]\n'
        'tensorflow_cluster = "training"\n'
        '[volumes.result]\nwriter = "worker"\nper_instance = true\n'
    )
    done = session.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("worker-0 | from True") == 2, done.stdout + done.stderr
    found = sorted(path.name for path in (session.directory / "volumes").iterdir())
    assert found == ["result.0", "result.1", "result.2"]
