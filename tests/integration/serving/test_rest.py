"""TensorFlow Serving's REST interface in both forms, and what it says to requests that are wrong."""

import base64
import gzip
import json
import socket
import zlib

import numpy as np
import pytest

from support.service import direct, serving

X = [[1.0, 2.0, 3.0, 4.0], [0.5, -1.5, 2.25, 1e-3]]
Y = direct("small1", x=np.array(X, np.float32))["y"]
PREDICT = "/v1/models/small:predict"


def numbers(document, key="predictions") -> bytes:
    """Return the bytes of an answer's numbers."""
    return np.array(document[key], np.float32).tobytes()


@pytest.mark.parametrize(
    "path", [PREDICT, "/v1/models/small/versions/1:predict", "/v1/models/small/labels/stable:predict"]
)
def test_rows_when_sent_to_any_name_of_the_version_get_the_engines_bits(served, path) -> None:
    for rows in (X, [{"x": row} for row in X]):
        status, found = served.json("POST", path, {"instances": rows, "signature_name": "serving_default"})
        assert (status, numbers(found)) == (200, Y.tobytes())


def test_columns_when_sent_with_and_without_a_name_get_the_engines_bits(served) -> None:
    for columns in (X, {"x": X}):
        status, found = served.json("POST", PREDICT, {"inputs": columns})
        assert (status, numbers(found, "outputs")) == (200, Y.tobytes())


def test_several_inputs_when_sent_as_rows_and_columns_are_named(served) -> None:
    rows = [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": -6}]
    status, found = served.json("POST", "/v1/models/pair:predict", {"instances": rows})
    assert (status, found["predictions"]) == (
        200,
        [{"total": 3.0, "double": 6}, {"total": 9.0, "double": -12}],
    )
    status, found = served.json(
        "POST", "/v1/models/pair:predict", {"inputs": {"a": [[1, 2], [4, 5]], "b": [3, -6]}}
    )
    assert (status, found["outputs"]) == (200, {"total": [3.0, 9.0], "double": [6, -12]})


def test_base64_when_the_model_takes_numbers_is_their_elements(served) -> None:
    rows = [{"b64": base64.b64encode(np.array(row, "<f4").tobytes()).decode()} for row in X]
    status, found = served.json("POST", PREDICT, {"instances": rows})
    assert (status, numbers(found)) == (200, Y.tobytes())


def test_gzip_when_sent_and_asked_for_is_read_and_written(served) -> None:
    body = gzip.compress(json.dumps({"instances": X * 100}).encode())
    headers = {"Content-Encoding": "gzip", "Accept-Encoding": "gzip, deflate"}
    status, answered, content = served.ask("POST", PREDICT, body, headers)
    assert (status, answered["content-encoding"]) == (200, "gzip")
    assert numbers(json.loads(gzip.decompress(content))) == Y.tobytes() * 100


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "JSON Parse error"),
        (b"[" * 100_000, "JSON Parse error"),
        (b'{"instances": NaN' + b"[" * 100_000, "JSON Parse error"),
        (b"[]", "not a JSON object"),
        (b"{}", "either instances or inputs"),
        (b'{"instances": [[1,2,3,4]], "inputs": [[1,2,3,4]]}', "either instances or inputs"),
        (b'{"instances": []}', "at least one example"),
        (b'{"instances": [[1,2,3]]}', "shape [1, 3], expected [-1, 4]"),
        (b'{"instances": [[1,2,3,4],[1]]}', "is ragged"),
        (b'{"instances": [["a","b","c","d"]]}', "not DT_FLOAT"),
        (b'{"instances": [[true,false,true,true]]}', "not DT_FLOAT"),
        (b'{"instances": [[1,2,3,NaN]]}', "NaN or infinite"),
        (b'{"instances": [[1,2,3,1e300]]}', "NaN or infinite"),
        (b'{"instances": [{"x": [1,2,3,4]}, {"y": 1}]}', "does not name the signature's inputs"),
        (b'{"instances": [[1,2,3,4]], "signature_name": "other"}', "no signature 'other'"),
        (b'{"instances": [[1,2,3,4]], "signature_name": 7}', "not a string"),
        (b'{"instances": [{"b64": "AAA"}]}', "not base64"),
        (b'{"instances": [{"b64": "AAAA"}]}', "bytes, its shape needs"),
        (b'{"inputs": {"z": 1}}', "does not name the signature's inputs|not DT_FLOAT"),
    ],
)
def test_predict_when_the_body_is_wrong_answers_400_with_the_reason(served, body, reason) -> None:
    status, found = served.json("POST", PREDICT, body)
    assert status == 400
    assert any(one in found["error"] for one in reason.split("|")), found


def test_integers_when_they_do_not_fit_are_refused_not_cut(served) -> None:
    for value in (2**31, 1.5, float("nan")):
        status, found = served.json(
            "POST", "/v1/models/pair:predict", {"inputs": {"a": [[1, 2]], "b": [value]}}
        )
        assert (status, "DT_INT32" in found["error"]) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/absent", 404),
        ("GET", "/v1/models/small/versions/2", 404),
        ("GET", "/v1/models/small/labels/canary", 404),
        ("GET", "/v1/models/absent/metadata", 404),
        ("GET", "/v1/models/small:predict", 404),
        ("POST", "/v1/models/small:guess", 404),
        ("POST", "/v1/models/absent:predict", 404),
        ("GET", "/v2/models/absent", 404),
        ("GET", "/v2/models/small/versions/x/ready", 404),
        ("POST", "/v2/repository/index", 404),
        ("DELETE", "/v1/models/small", 405),
        ("GET", "/", 404),
    ],
)
def test_paths_when_there_is_nothing_answer_with_a_json_error(served, method, path, status) -> None:
    got, found = served.json(method, path, b'{"instances": [[1,2,3,4]]}' if method == "POST" else None)
    assert got == status
    assert isinstance(found["error"], str)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"inputs": 7}, "expected form"),
        ({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP99", "data": [1]}]}, "unknown datatype"),
        ({"inputs": [{"name": "x", "shape": [-1, 4], "datatype": "FP32", "data": [1]}]}, "no definite shape"),
        ({"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": [1, 2]}]}, "another number"),
        (
            {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": [1, 2, 3, 4]}]},
            "is DT_DOUBLE",
        ),
        (
            {
                "inputs": [
                    {"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 9}}
                ]
            },
            "beyond the body",
        ),
        (
            {
                "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}],
                "outputs": [{"name": "z"}],
            },
            "the model has ['y']",
        ),
    ],
)
def test_infer_when_the_request_is_wrong_answers_400_with_the_reason(served, document, reason) -> None:
    status, found = served.json("POST", "/v2/models/small/infer", document)
    assert (status, reason in found["error"]) == (400, True), found


def test_metrics_when_read_count_requests_and_name_no_unknown_model(served) -> None:
    served.json("POST", "/v1/models/secret-name:predict", {"instances": [1]})
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        text = served.ask("GET", path)[2].decode()
        assert "securetf_serving_ready 1\n" in text
        assert (
            'securetf_serving_requests_total{api="tfs-rest",method="predict",model="",status="404"}' in text
        )
        assert "secret-name" not in text


def test_log_when_requests_were_wrong_and_right_holds_nothing_of_them(served) -> None:
    served.json("POST", PREDICT, {"instances": [[31337.5, 1, 2, 3]], "signature_name": "needle"})
    served.json("POST", PREDICT, {"instances": [[31337.5, 1, 2, 3]]})
    assert all(one not in served.log.read_text() for one in ("31337", "needle"))


def test_limits_when_passed_answer_413_504_and_408_and_the_next_request_is_served(served) -> None:
    options = ("--max-body-mb", "1", "--body-timeout", "0.5", "--header-timeout", "0.5")
    with serving(served.models, *options) as small:
        right = {"instances": X}
        big = b'{"instances": [' + b" " * (1 << 20) + b"1]}"
        status, _, content = small.ask("POST", PREDICT, big)
        assert (status, b"more than 1048576 bytes" in content) == (413, True)
        bomb = zlib.compress(b" " * (100 << 20))
        status, _, content = small.ask("POST", PREDICT, bomb, {"Content-Encoding": "deflate"})
        assert (status, b"more than 1048576 bytes" in content) == (413, True)
        status, found = small.json(
            "POST", "/v1/models/spin:predict", {"instances": [20_000]}, {"X-Request-Timeout": "0.05"}
        )
        assert (status, "deadline" in found["error"]) == (504, True)
        slow_loris(small)
        assert numbers(small.json("POST", PREDICT, right)[1]) == Y.tobytes()


def slow_loris(service) -> None:
    """Send a head that never ends and a body that never comes; both must be cut off."""
    host, port = service.rest.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as head:
        head.sendall(b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: x\r\nX-A")
        assert head.recv(1) == b""
    with socket.create_connection((host, int(port)), timeout=60) as body:
        body.sendall(b"POST " + PREDICT.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert body.recv(20).startswith(b"HTTP/1.1 408 ")
