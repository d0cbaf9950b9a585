"""A customer without a TEE and a service under the shield: verify, connect, proxy, receipt; all real."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import securetf
from securetf.cli import call
from securetf.service_errors import ServiceNotProvedError
from support.cloud import SECUR_ETF, Cloud, Job
from support.hosts import Hosts
from support.pair import Run

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]

SOURCE = Path(__file__).parents[2] / "src"
CANARY = b"canary of a customer's document: 41f0aa"
BODY = CANARY * 30_000  # 1.1 MB
PUBLIC = 8443
# Answers a POST with the digest of its body, and a receipt signed with the key that the launcher gave.
SERVER = f"""
import hashlib, json, os, sys, time
sys.path.insert(0, {str(SOURCE)!r})
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securetf import receipt
from securetf.keys.workload import WorkloadKey
from securetf.wire.statement import Delegation
place = Path(os.environ["SECURETF_IDENTITY"])
key = WorkloadKey(load_pem_private_key((place / "receipt-key.pem").read_bytes(), None))
def made(request, response):
    ear = json.loads((place / "attestation.json").read_text())["ear"]
    volume = json.loads((place / "volumes.json").read_text())["models"]
    jti, spki = receipt.attested_spki(ear)
    delegation = (place / "receipt-delegation.jws").read_text()
    import base64
    said = json.loads(base64.urlsafe_b64decode(delegation.split(".")[1] + "=="))
    who = {{name: said[name] for name in ("session", "workload", "instance", "manifest_hash")}}
    model = receipt.ReceiptModel(
        name="m", version=1, volume="models", volume_root=volume["root"], volume_epoch=volume["epoch"],
        sha256=hashlib.sha256(Path(volume["mount"], "model.tflite").read_bytes()).hexdigest())
    return receipt.sign_receipt(receipt.Receipt(
        **who, model=model, request_sha256=hashlib.sha256(request).hexdigest(),
        response_sha256=hashlib.sha256(response).hexdigest(), ear_jti=jti, ear_sha256=receipt.ear_digest(ear),
        attested_key=spki, delegation=delegation, iat=int(time.time())), key)
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = hashlib.sha256(body).hexdigest().encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        if self.headers.get("securetf-receipt") == "request":
            self.send_header("securetf-receipt", made(body, answer))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_):
        pass
server = ThreadingHTTPServer(("127.0.0.1", 8501), Handler)
print("serving", flush=True)
server.serve_forever()
"""


class Service:
    """A running service and what its customer has: a trust file, a policy."""

    def __init__(self, directory: Path, hosts: Hosts) -> None:
        self.directory, self.hosts = directory, hosts
        self.cloud = Cloud(directory, f"{hosts.address}:0")
        self.job = Job(self.cloud, directory)
        workload = (
            f'volumes = {{ models = "{self.job.base}/m:ro" }}\nreceipts = true\n'
            f"[workloads.trainer.outside]\nrest = {{ port = 8501, public = {PUBLIC} }}\n"
        )
        self.job.create(
            self.job.text([sys.executable, "-c", SERVER], workload=workload, tables="[volumes.models]\n")
        )
        self.root = self.job.pack("models", {"model.tflite": b"weights"}).hex()
        self.report = directory / "report.json"
        command = [
            *SECUR_ETF, "run", "trainer", "--manifest", str(self.job.manifest),
            "--volumes", str(self.job.volumes), "--cas", str(self.cloud.trust_file),
            "--insecure-simulation", str(self.cloud.platform), "--report", str(self.report),
        ]  # fmt: skip
        self.run = Run(hosts.on(0, command), directory / "run.log")
        self.url = f"https://{hosts.addresses[0]}:{PUBLIC}"

    def policy(self, capsys: pytest.CaptureFixture[str]) -> Path:
        """What `--print-policy` writes."""
        path = self.directory / "policy.toml"
        assert call(["verify", self.url, "--print-policy", str(self.cloud.trust_file)]) == 0
        path.write_text(capsys.readouterr().out)
        return path

    def stop(self) -> dict[str, object]:
        """End the service; return what its launcher reports of the network."""
        if self.run.process.poll() is None:
            self.run.process.terminate()
            self.run.process.wait(60)
            self.cloud.stop()
        return json.loads(self.report.read_text())["network"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Hosts(1) as hosts:
        one = Service(tmp_path_factory.mktemp("service"), hosts)
        try:
            one.run.wait_for("serving")
            yield one
        finally:
            one.stop()


def test_customer_when_the_policy_does_not_match_sends_nothing(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another measurement, another model root, hardware wanted, expired, another CAS."""
    text = service.policy(capsys).read_text()
    measurement = text.split('mr_td = ["')[1][:96]
    trust = json.loads(service.cloud.trust_file.read_text())
    (tmp_path / "other.json").write_text(json.dumps(trust | {"spki_sha256": "00" * 32}))
    wrong = {
        "measurement": text.replace(measurement, "0" * 96),
        "volumes": text.replace(service.root, "0" * 64),
        "simulation": text.replace("[insecure_simulation]", "[appraisal.tdx]"),
        "policy": text.replace('expires = "20', 'expires = "19'),
        "cas": text.replace(str(service.cloud.trust_file), str(tmp_path / "other.json")),
    }
    with service.hosts.captured(tmp_path / "wire"):
        for check, changed in wrong.items():
            path = tmp_path / f"{check}.toml"
            path.write_text(changed)
            with pytest.raises(ServiceNotProvedError, match=check):
                securetf.connect(service.url, policy=path)
        command = [*SECUR_ETF, "proxy", "--to", service.url, "--policy", str(tmp_path / "measurement.toml")]
        refused = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (refused.returncode, "measurement" in refused.stderr) == (17, True)
    assert (tmp_path / "wire").stat().st_size < len(BODY)


def test_customer_when_the_service_is_the_right_one_gets_an_answer_and_a_receipt_that_holds(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, digest = service.policy(capsys), hashlib.sha256(BODY).hexdigest()
    saved = tmp_path / "saved.json"
    assert call(["verify", service.url, "--policy", str(policy), "--save", str(saved)]) == 0
    assert "SIMULATION" in capsys.readouterr().out
    with (
        service.hosts.captured(tmp_path / "wire") as capture,
        securetf.connect(service.url, policy=policy) as connection,
    ):
        asked = {"Securetf-Receipt": "request"}
        answer = connection.session.post(f"{service.url}/", data=BODY, headers=asked, timeout=60)
        assert answer.text == digest
        assert through_proxy(service.url, policy) == digest
    assert capture.found([CANARY, digest.encode()]) == 0
    assert (tmp_path / "wire").stat().st_size > 2 * len(BODY)
    receipt_holds(service, policy, saved, answer, tmp_path)
    # Of all connections that were ever made for data, those of this test are all: refused policies made none.
    assert service.stop()["outside"] == 2
    assert call(["verify", "--statement", str(saved), "--policy", str(policy)]) == 0  # offline, still fresh


def receipt_holds(
    service: Service, policy: Path, saved: Path, answer: requests.Response, directory: Path
) -> None:
    files = {name: directory / f"{name}.file" for name in ("receipt", "request", "response", "audit")}
    files["receipt"].write_text(answer.headers["securetf-receipt"])
    files["request"].write_bytes(BODY)
    files["response"].write_bytes(answer.content)
    trust, key = str(service.cloud.trust_file), str(service.cloud.key_file)
    assert call(["audit", "export", service.job.name, str(files["audit"]), "--cas", trust, "--key", key]) == 0
    verify = ["receipt", "verify", str(files["receipt"]), "--policy", str(policy), "--statement", str(saved)]
    for name in ("request", "response", "audit"):
        verify += [f"--{name}", str(files[name])]
    assert call(verify) == 0
    files["response"].write_bytes(b"x")
    assert call(verify) == 17


def through_proxy(url: str, policy: Path) -> str:
    """The same request by a program that knows nothing of this."""
    command = [*SECUR_ETF, "proxy", "--to", url, "--policy", str(policy), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            ready = json.loads(proxy.stdout.readline())
            with requests.Session() as plain:
                plain.trust_env = False
                return plain.post(f"{ready['listen']}/", data=BODY, timeout=60).text
        finally:
            proxy.terminate()
            proxy.wait(30)
