"""A session of a server and a client, one host each: the smallest thing that has a network."""

import json
import os
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

from securetf.attester.measurement import software_measurement
from support.cloud import SECUR_ETF, Cloud
from support.hosts import Hosts

PORT, TUNNEL = 7000, 15443
CANARY = b"canary of the gradients: 5f1d07c2a9e84b63"
# Each line that comes is answered by its length; the server knows its peer by its virtual address.
SERVER = f"""
import socket, sys, threading
def serve(stream, peer):
    with stream, stream.makefile("rwb") as file:
        for line in file:
            print("from", peer[0], len(line), flush=True)
            file.write(b"%d bytes\\n" % len(line)); file.flush()
server = socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True)
print("listening", flush=True)
while True:
    stream, peer = server.accept()
    threading.Thread(target=serve, args=(stream, peer), daemon=True).start()
"""
# Sends a line `count` times every `pause` seconds over one connection; dials until the server answers: in a
# namespace a connection to a peer that does not listen is reset after it was opened.
CLIENT = f"""
import socket, sys, time
count, pause, canary = int(sys.argv[1]), float(sys.argv[2]), {CANARY!r}
end = time.monotonic() + 40
while True:
    try:
        stream = socket.create_connection(("server-0", {PORT}), timeout=20)
        file = stream.makefile("rwb")
        file.write(canary * 100 + b"\\n"); file.flush()
        print(0, file.readline().decode().strip(), flush=True)
        break
    except OSError as error:
        if time.monotonic() > end: raise
        time.sleep(0.1)
with stream, file:
    for number in range(1, count):
        time.sleep(pause)
        file.write(canary * 100 + b"\\n"); file.flush()
        print(number, file.readline().decode().strip(), flush=True)
"""
# The same, but it outlives the end of its connection: only its launcher ends it.
STEADFAST = f"try:\n{textwrap.indent(CLIENT, '    ')}\nexcept OSError:\n    time.sleep(600)\n"


class Run:
    """One `securetf run`; what it says goes to a file."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = 60) -> None:
        end = time.monotonic() + timeout_s
        while text not in self.said:
            assert self.process.poll() is None, (
                f"ended with {self.process.poll()} without {text!r}:\n{self.said}"
            )
            assert time.monotonic() < end, f"never said {text!r}:\n{self.said}"
            time.sleep(0.05)

    def wait(self, timeout_s: float = 60) -> int:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"does not end:\n{self.said}") from None


class Pair:
    """The session, its CAS, and what runs on hosts 0 (server) and 1 (client)."""

    def __init__(self, cloud: Cloud, hosts: Hosts | None, directory: Path) -> None:
        self.cloud, self.hosts, self.directory = cloud, hosts, directory
        self.name = f"acme/{uuid.uuid4().hex}"
        self.manifest = directory / "manifest.toml"
        self.runs: list[Run] = []
        self.environment = os.environ

    def text(
        self,
        client: list[str],
        *,
        server: list[str] | None = None,
        lifetime_s: int = 3600,
        predecessor: str = "",
        extra: str = "",
    ) -> str:
        python = sys.executable
        serving = server or [python, "-c", SERVER]
        return f"""
[session]
name = "{self.name}"
{predecessor}
[network]
certificate_lifetime_s = {lifetime_s}
[appraisal.insecure_simulation]
mr_td = ["{software_measurement().hex()}"]
[workloads.server]
command = {json.dumps(serving)}
listen = {{ lines = {{ port = {PORT}, from = ["client"] }} }}
[workloads.client]
command = {json.dumps(client)}
connect = ["server:lines"]
{extra}
"""

    def create(self, text: str) -> None:
        self.manifest.write_text(text)
        self.cloud.client.create_session(text, self.cloud.owner)

    def client(self, count: int = 3, pause: float = 0.0, program: str = CLIENT) -> list[str]:
        return [sys.executable, "-c", program, str(count), str(pause)]

    def run(self, workload: str, *options: str, manifest: Path | None = None, name: str = "") -> Run:
        host = 0 if workload == "server" else 1
        tunnel = f"{self.hosts.addresses[host]}:{TUNNEL}" if self.hosts else "127.0.0.1:0"
        command = [
            *SECUR_ETF, "run", workload, "--manifest", str(manifest or self.manifest),
            "--cas", str(self.cloud.trust_file), "--insecure-simulation", str(self.cloud.platform),
            "--report", str(self.directory / f"{workload}.json"), "--tunnel", tunnel, *options,
        ]  # fmt: skip
        if self.hosts:
            command = self.hosts.on(host, command)
        one = Run(command, self.directory / f"{name or workload}.log")
        self.runs.append(one)
        return one

    def report(self, workload: str) -> dict[str, object]:
        return json.loads((self.directory / f"{workload}.json").read_text())

    def audit(self) -> list[object]:
        return self.cloud.client.audit(self.name, self.cloud.owner).entries

    def close(self) -> None:
        for one in self.runs:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()
