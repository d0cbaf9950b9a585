"""`securetf serve` under the shields: a plain client, a model out of a volume, a receipt down to its root."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException

import securetf
from support.cloud import SECUR_ETF
from support.hosts import Hosts
from support.service import direct
from support.shielded_service import Service, model

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]
INPUT = np.array([[0.25, -1.5, 3.0, 7.75]], np.float32)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Hosts(1) as hosts:
        one = Service(tmp_path_factory.mktemp("inference"), hosts)
        try:
            one.create("[volumes.models]\n")
            one.root = one.job.pack("models", {"small/3/model.tflite": model("small1")}).hex()
            one.start()
            one.ready()
            yield one
        finally:
            one.stop()


def wanted() -> np.ndarray:
    """What the engine says when nothing is between."""
    return direct("small1", x=INPUT)["y"]


def test_customer_when_he_asks_over_rest_gets_the_engine_s_answer_and_a_receipt_down_to_the_volume_s_root(
    service: Service, tmp_path: Path
) -> None:
    body = json.dumps({"instances": INPUT.tolist()}).encode()
    with securetf.connect(service.rest, policy=service.policy) as connection:
        answer = connection.session.post(
            f"{service.rest}/v1/models/small:predict",
            data=body,
            headers={"content-type": "application/json", "securetf-receipt": "request"},
            timeout=60,
        )
    assert answer.status_code == 200, answer.text
    assert np.array(answer.json()["predictions"], np.float32).tobytes() == wanted().tobytes()
    audit, receipt = tmp_path / "audit", tmp_path / "receipt"
    given = {"request": body, "response": answer.content}
    receipt.write_text(answer.headers["securetf-receipt"])
    for name, content in given.items():
        (tmp_path / name).write_bytes(content)
    trust, key = str(service.cloud.trust_file), str(service.cloud.key_file)
    exported = service.cli("audit", "export", service.job.name, str(audit), "--cas", trust, "--key", key)
    assert exported.returncode == 0, exported.stderr
    verify = [
        "receipt", "verify", str(receipt), "--policy", str(service.policy), "--statement", str(service.saved),
        "--audit", str(audit), "--request", str(tmp_path / "request"),
        "--response", str(tmp_path / "response"),
    ]  # fmt: skip
    done = service.cli(*verify)
    assert done.returncode == 0, done.stdout + done.stderr
    assert service.root[:16] in done.stdout
    (tmp_path / "response").write_bytes(answer.content.replace(b"0", b"1"))
    assert service.cli(*verify).returncode == 17


def test_customer_when_he_asks_by_grpc_through_the_proxy_gets_the_engine_s_answer(service: Service) -> None:
    command = [*SECUR_ETF, "proxy", "--to", service.grpc, "--policy", str(service.policy), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            where = json.loads(proxy.stdout.readline())["listen"].removeprefix("http://")
            with triton.InferenceServerClient(where) as client:
                tensor = triton.InferInput("x", INPUT.shape, "FP32")
                tensor.set_data_from_numpy(INPUT)
                answer = client.infer("small", [tensor]).as_numpy("y")
                assert answer.tobytes() == wanted().tobytes()
                with pytest.raises(InferenceServerException, match=r"NOT_FOUND.*absent"):
                    client.infer("absent", [tensor])
        finally:
            proxy.terminate()
            proxy.wait(30)
