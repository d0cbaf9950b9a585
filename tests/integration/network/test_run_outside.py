"""A plain HTTP server under the shield, met by clients outside of the session on another machine."""

import hashlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from securetf.wire.statement import read_delegation
from support.cloud import Cloud, Job, until
from support.hosts import Hosts
from support.pair import Run
from support.statement import Proved, ask, check

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]

CANARY = "canary of a customer's document: 7b1e5d"
ANSWER = "canary of the model's answer: 90c3ff"
# Answers a POST with the digest of its body and a canary, a GET with the identity directory but the key.
SERVER = f"""
import hashlib, json, os, socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.say((hashlib.sha256(body).hexdigest() + " {ANSWER}").encode())
    def do_GET(self):
        place = os.environ["SECURETF_IDENTITY"]
        names = sorted(os.listdir(place))
        texts = {{name: open(os.path.join(place, name)).read() for name in names if "key" not in name}}
        self.say(json.dumps({{"names": names, **texts}}).encode())
    def say(self, content):
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_):
        pass
servers = [ThreadingHTTPServer(("127.0.0.1", port), Handler) for port in (8501, 8502)]
print("serving", flush=True)
import threading
threading.Thread(target=servers[1].serve_forever, daemon=True).start()
servers[0].serve_forever()
"""
PUBLIC, CLOSED = 8443, 8444


class Service:
    """The server on host 0, its customers on host 1."""

    def __init__(self, cloud: Cloud, hosts: Hosts, directory: Path) -> None:
        self.cloud, self.hosts, self.directory = cloud, hosts, directory
        self.job, self.runs = Job(cloud, directory), list[Run]()
        self.address = hosts.addresses[0]
        self.key = directory / "customer.pem"
        self.pem = self._customer()

    def _customer(self) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        subprocess.run(
            ["openssl", "req", "-x509", "-new", "-key", self.key, "-subj", "/CN=x", "-days", "1",
             "-out", self.key.with_suffix(".crt")],
            check=True, capture_output=True,
        )  # fmt: skip
        return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def text(self, predecessor: str = "", instances: int = 1) -> str:
        workload = (
            f'volumes = {{ models = "{self.job.base}/m:ro" }}\nreceipts = true\n'
            f"instances = {{ minimum = 1, maximum = {instances} }}\n"
            "[workloads.trainer.outside]\n"
            f"rest = {{ port = 8501, public = {PUBLIC} }}\n"
            f"closed = {{ port = 8502, public = {CLOSED}, clients = [{json.dumps(self.pem)}] }}\n"
        )
        return self.job.text(
            [sys.executable, "-c", SERVER],
            workload=workload,
            tables="[volumes.models]\n",
            predecessor=predecessor,
        )

    def run(self, *options: str) -> Run:
        command = [
            sys.executable, "-m", "securetf", "run", "trainer", "--manifest", str(self.job.manifest),
            "--volumes", str(self.job.volumes), "--cas", str(self.cloud.trust_file),
            "--insecure-simulation", str(self.cloud.platform),
            "--report", str(self.directory / "report.json"), *options,
        ]  # fmt: skip
        one = Run(self.hosts.on(0, command), self.directory / f"{uuid.uuid4().hex}.log")
        self.runs.append(one)
        return one

    def curl(self, *arguments: str, port: int = PUBLIC, path: str = "") -> "subprocess.CompletedProcess[str]":
        command = [
            "curl",
            "-sS",
            "-k",
            "--max-time",
            "30",
            *arguments,
            f"https://{self.address}:{port}/{path}",
        ]
        return subprocess.run(self.hosts.on(1, command), capture_output=True, text=True, check=False)

    def listening(self) -> set[int]:
        """Ports of host 0 that can be reached from others."""
        done = subprocess.run(self.hosts.on(0, ["ss", "-Htln"]), capture_output=True, text=True, check=True)
        places = [line.split()[3].rpartition(":") for line in done.stdout.splitlines()]
        return {int(port) for host, _, port in places if not host.startswith("127.")}

    def audit(self) -> str:
        return str(self.cloud.client.audit(self.job.name, self.cloud.owner).entries)

    def close(self) -> None:
        for one in self.runs:
            if one.process.poll() is None:
                one.process.kill()
            one.process.wait()


@pytest.fixture
def service(cloud: Cloud, hosts: Hosts, tmp_path: Path) -> Iterator[Service]:
    one = Service(cloud, hosts, tmp_path)
    yield one
    one.close()


@pytest.mark.parametrize("interceptor", ["namespace", "seccomp"])
def test_clients_outside_when_they_talk_to_the_program_are_shielded_and_can_check_whom_they_meet(
    service: Service, interceptor: str, hosts: Hosts, tmp_path: Path
) -> None:
    service.job.create(service.text())
    root = service.job.pack("models", {"model.tflite": b"weights"})
    with hosts.captured(tmp_path / "wire") as capture:
        run = service.run("--interceptor", interceptor)
        run.wait_for("serving")
        body = CANARY * 5000
        (tmp_path / "body").write_text(body)
        answered = service.curl("--data-binary", f"@{tmp_path / 'body'}", "-H", "Expect:", path="predict")
        assert answered.stdout == f"{hashlib.sha256(body.encode()).hexdigest()} {ANSWER}"
        statement, leaf = ask(hosts.on(1, []), service.address, PUBLIC)
        identity = json.loads(service.curl().stdout)
        assert service.listening() == {PUBLIC, CLOSED}  # the tunnel is on loopback
        run.process.terminate()
        run.wait()
    assert len((tmp_path / "wire").read_bytes()) > len(body)
    assert capture.found([CANARY.encode(), ANSWER.encode()]) == 0
    proved = check(
        statement, leaf,
        trust=service.cloud.client.trust, platform=service.cloud.platform, session=service.job.name,
    )  # fmt: skip
    assert proved.binding.volumes["models"].root == root.hex()
    assert (proved.binding.workload, proved.claims.simulated) == ("trainer", True)
    _check_identity(identity, proved)
    network = json.loads((tmp_path / "report.json").read_text())["network"]
    assert (network["interceptor"], network["outside"], network["statements"]) == (interceptor, 2, 1)


def _check_identity(identity: dict[str, str], proved: Proved) -> None:
    assert identity["names"] == [
        "attestation.json", "receipt-delegation.jws", "receipt-key.pem", "volumes.json",
    ]  # fmt: skip
    assert json.loads(identity["attestation.json"])["ear"] == proved.statement.ear
    delegation = read_delegation(identity["receipt-delegation.jws"], proved.key)
    assert delegation.receipt_key == proved.binding.receipt_key
    volume = json.loads(identity["volumes.json"])["models"]
    assert volume["root"] == proved.binding.volumes["models"].root


def test_refused_clients_when_they_come_get_an_alert_that_says_why_and_are_logged(
    service: Service, hosts: Hosts
) -> None:
    service.job.create(service.text())
    service.job.pack("models", {"model.tflite": b"weights"})
    run = service.run()
    run.wait_for("serving")
    without = service.curl(port=CLOSED)
    assert without.returncode != 0
    assert "certificate required" in without.stderr, without.stderr
    pair = ("--cert", str(service.key.with_suffix(".crt")), "--key", str(service.key))
    assert "attestation.json" in service.curl(*pair, port=CLOSED).stdout
    old = hosts.on(1, ["openssl", "s_client", "-tls1_2", "-connect", f"{service.address}:{PUBLIC}"])
    done = subprocess.run(old, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert "protocol version" in done.stderr
    assert "Cipher is (NONE)" in done.stdout
    for reason in ("showed no key", "does not speak our TLS 1.3 profile"):
        run.wait_for(reason)
        until(lambda reason=reason: reason in service.audit(), 30)
    assert f"outside closed:8502 from {hosts.addresses[1]}" in service.audit()


def test_a_service_when_its_manifest_is_replaced_is_closed_to_its_clients(service: Service) -> None:
    service.job.create(service.text())
    service.job.pack("models", {"model.tflite": b"weights"})
    run = service.run("--outside", f"rest={service.address}:9443")
    run.wait_for("serving")
    assert service.curl(port=9443).returncode == 0
    assert service.curl(port=PUBLIC).returncode == 7  # nobody listens
    view = service.cloud.client.read_session(service.job.name, service.cloud.owner)
    service.cloud.client.update_session(
        service.text(f'predecessor = "{view.manifest_hash}"', instances=2), service.cloud.owner
    )
    run.wait()
    assert "this member is revoked" in run.said
    assert service.curl(port=9443).returncode != 0
