"""How a service starts: what it loads for its first answer, and how it ends when it cannot listen."""

import socket
import subprocess
import sys
from pathlib import Path

from support.service import put, serving


def test_first_answer_over_http_when_grpc_is_off_needs_neither_grpc_nor_protobuf(tmp_path: Path) -> None:
    put(tmp_path / "models", "pair", 1)
    timed = {"PYTHONPROFILEIMPORTTIME": "1"}  # the log names each module that is imported
    with serving(tmp_path / "models", "--grpc", "", environment=timed) as served:
        asked = {"inputs": {"a": [[1, 2], [4, 5]], "b": [3, -6]}}
        status, _ = served.json("POST", "/v1/models/pair:predict", asked)
        assert status == 200
        modules = {line.rpartition("|")[2].strip() for line in served.log.read_text().splitlines()}
    assert {"numpy", "uvicorn"} <= modules
    assert not {"grpc", "google.protobuf"} & modules


def test_start_when_the_port_of_grpc_is_in_use_ends_although_http_listens(tmp_path: Path) -> None:
    put(tmp_path / "models", "pair", 1)
    command = [sys.executable, "-m", "securetf", "serve", "--models", tmp_path / "models"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command += ["--rest", "127.0.0.1:0", "--grpc", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 30
    assert f"[STF-1004]: {address} cannot be listened on: gRPC cannot bind it" in done.stderr
    assert "securetf: listening" not in done.stderr
