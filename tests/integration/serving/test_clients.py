"""Unmodified third-party clients get what the engine gives when it is called directly, bit by bit."""

import json
import queue
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient import http
from tritonclient.utils import InferenceServerException

from securetf.serving.protocols import message
from support.service import direct

X = np.random.default_rng(7).standard_normal((5, 4)).astype(np.float32)
A, B = np.array([[1.5, 2], [3, 4]], np.float32), np.array([7, -9], np.int32)


def test_curl_when_it_sends_rows_gets_the_engines_numbers(served) -> None:
    body = json.dumps({"instances": X.tolist()})
    shown = subprocess.run(
        ["curl", "-sS", "--compressed", "-d", body, f"http://{served.rest}/v1/models/small:predict"],
        capture_output=True,
        check=True,
    )
    got = np.array(json.loads(shown.stdout)["predictions"], np.float32)
    assert got.tobytes() == direct("small1", x=X)["y"].tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_over_http_when_it_infers_gets_the_engines_bytes(served, binary) -> None:
    client = http.InferenceServerClient(served.rest)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("pair", "1")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        described = client.get_model_metadata("pair")
        assert described["inputs"][1] == {"name": "b", "datatype": "INT32", "shape": [-1]}
        inputs = [http.InferInput("a", A.shape, "FP32"), http.InferInput("b", B.shape, "INT32")]
        inputs[0].set_data_from_numpy(A, binary_data=binary)
        inputs[1].set_data_from_numpy(B, binary_data=binary)
        outputs = [http.InferRequestedOutput(name, binary_data=binary) for name in ("total", "double")]
        answer = client.infer("pair", inputs, outputs=outputs, request_id="7")
        assert answer.get_response()["id"] == "7"
        found = direct("pair", a=A, b=B)
        for name in ("total", "double"):
            assert answer.as_numpy(name).tobytes() == found[name].tobytes()
        assert client.infer("pair", inputs).as_numpy("total").tobytes() == found["total"].tobytes()
    finally:
        client.close()


def test_tritonclient_over_http_when_the_request_is_wrong_raises_the_services_reason(served) -> None:
    client = http.InferenceServerClient(served.rest)
    try:
        wrong = http.InferInput("x", [1, 5], "FP32")
        wrong.set_data_from_numpy(np.ones((1, 5), np.float32))
        with pytest.raises(InferenceServerException, match=r"shape \[1, 5\], expected \[-1, 4\]") as caught:
            client.infer("small", [wrong])
        assert caught.value.status() == "400"
        with pytest.raises(InferenceServerException, match="Servable not found") as caught:
            client.infer("absent", [wrong])
        assert caught.value.status() == "404"
    finally:
        client.close()


def test_tritonclient_over_grpc_when_it_infers_gets_the_engines_bytes(served) -> None:
    with triton.InferenceServerClient(served.grpc) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("small")
        assert client.get_model_metadata("small").inputs[0].shape == [-1, 4]
        given = triton.InferInput("x", X.shape, "FP32")
        given.set_data_from_numpy(X)
        answer = client.infer("small", [given], model_version="1")
        assert answer.as_numpy("y").tobytes() == direct("small1", x=X)["y"].tobytes()
        wrong = triton.InferInput("x", [1, 4], "INT32")
        wrong.set_data_from_numpy(np.ones((1, 4), np.int32))
        with pytest.raises(InferenceServerException, match="is DT_INT32, expected DT_FLOAT") as caught:
            client.infer("small", [wrong])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_tritonclient_when_it_streams_gets_each_answer_and_each_error_in_turn(served) -> None:
    answers: queue.Queue = queue.Queue()
    with triton.InferenceServerClient(served.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for width in (4, 5, 4):
            given = triton.InferInput("x", [1, width], "FP32")
            given.set_data_from_numpy(np.ones((1, width), np.float32))
            client.async_stream_infer("small", [given])
        found = [answers.get(timeout=60) for _ in range(3)]
        client.stop_stream()
    assert "shape [1, 5]" in str(found[1][1])
    right = direct("small1", x=np.ones((1, 4), np.float32))["y"].tobytes()
    assert [found[number][0].as_numpy("y").tobytes() for number in (0, 2)] == [right, right]


def test_kserve_when_it_infers_over_http_and_grpc_gets_the_engines_bytes(served) -> None:
    program = Path(__file__).with_name("kserve_program.py")
    shown = subprocess.run(
        [sys.executable, program, served.rest, served.grpc, X.tobytes().hex()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == [direct("small1", x=X)["y"].tobytes().hex()] * 3


def test_grpc_health_when_asked_says_that_it_serves(served) -> None:
    with grpc.insecure_channel(served.grpc) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert message("oip.HealthCheckResponse").FromString(check(b"", timeout=60)).status == 1
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
        assert message("oip.HealthCheckResponse").FromString(next(watch)).status == 1
        watch.cancel()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("inference.GRPCInferenceService/ModelInfer", "ModelInferRequest"),
        ("tensorflow.serving.PredictionService/Predict", "PredictRequest"),
    ],
)
@pytest.mark.parametrize("size", [3, 100_000])
def test_grpc_when_the_message_is_malformed_answers_invalid_argument(served, method, name, size) -> None:
    with grpc.insecure_channel(served.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{method}")(b"\xff" * size, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"the request is not a {name}" in caught.value.details()
