"""A real CAS process with its own directories, and the trust of a client that attested it."""

import json
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from securetf.attester.insecure_simulation import create_platform, load_anchor
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasTrust
from securetf.cas_client.attest_cas import attest_cas
from securetf.claims import Platform
from securetf.manifest import PlatformPolicy
from securetf.verifier.insecure_simulation import verifier

MAIN = [sys.executable, "-c", "import securetf.cli; securetf.cli.main()"]
SESSION = "acme/digits"


class Process:
    """One `securetf cas start` with its own directories."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.platform = directory, directory / "platform"
        create_platform(self.platform, datetime.now(UTC))
        self.process: subprocess.Popen[str] | None = None

    def command(self, listen: str = "127.0.0.1:0") -> list[str]:
        return [
            *MAIN, "cas", "start", "--data", str(self.directory / "data"), "--listen", listen,
            "--insecure-simulation", str(self.platform),
            "--insecure-anchor", str(self.directory / "INSECURE-anchor"),
        ]  # fmt: skip

    def start(self) -> "Process":
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.port = int(self.ready["url"].rpartition(":")[2])
        return self

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return status

    def trust(self, measurement: str | None = None) -> CasTrust:
        anchors = load_anchor(self.platform)
        return attest_cas(
            self.ready["url"],
            verifiers_for=lambda found: {Platform.INSECURE_SIMULATION: verifier(anchors, found)},
            policy=PlatformPolicy(mr_td=(measurement or software_measurement().hex(),)),
            now=datetime.now(UTC),
        )

    def raw(self, request: bytes) -> bytes:
        """Send bytes over TLS, return the whole answer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.port), 10) as plain,
            context.wrap_socket(plain) as secured,
        ):
            secured.sendall(request)
            answer = b""
            while part := secured.recv(65536):
                answer += part
        return answer

    def post(self, path: str, body: bytes, headers: str = "") -> tuple[int, dict[str, Any]]:
        answer = self.raw(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head, _, text = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(text)


def manifest(measurement: str) -> str:
    return f"""
[session]
name = "{SESSION}"
[appraisal.insecure_simulation]
mr_td = ["{measurement}"]
[secrets.token]
kind = "value"
[volumes.data]
[volumes.model]
writer = "trainer"
[workloads.trainer]
command = ["true"]
volumes = {{ data = "/data:ro", model = "/model:rw" }}
secrets = {{ token = "env:TOKEN" }}
"""


@pytest.fixture(scope="module")
def cas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    running = Process(tmp_path_factory.mktemp("cas")).start()
    yield running
    assert running.stop() == 0


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path)
    yield made
    if made.process is not None:
        made.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def trust(cas: Process) -> CasTrust:
    return cas.trust()
