"""From the start of a service to its first answer, with LiteRT and with TensorFlow: row 6 of the evaluation.

The client asks from the first millisecond on and takes no notice of what the service says about itself.

A virtual machine's host may take free memory back (virtio-balloon's free page reporting, after two seconds):
whoever uses it next waits for the host with each page. A TEE's memory is its own, so each start finds memory
that was in use just before; LiteRT's are measured without that, too.
"""

import compileall
import http.client
import json
import mmap
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import securetf
from _models import SIZES, litert, saved_model
from _report import Row

START_S = 0.5
_POLL_S, _PATIENCE_S = 0.005, 300
_AT_HAND_BYTES = 1 << 30  # more than a start takes
_TAKEN_BACK_S = 5.0


@contextmanager
def repository(model: str, *, saved: bool = False) -> Iterator[Path]:
    """Return a directory of models with one version, as old as a packed volume."""
    with tempfile.TemporaryDirectory(prefix="securetf-bench-") as area:
        folder = Path(area) / "models" / model / "1"
        if saved:
            shutil.copytree(saved_model(model), folder)
        else:
            folder.mkdir(parents=True)
            shutil.copy(litert(model), folder / "model.tflite")
        for path in folder.rglob("*"):
            os.utime(path, (1, 1))
        yield folder.parents[1]


@dataclass
class Started:
    """One start: seconds until the first answer over HTTP, and until all was ready; what followed."""

    seconds: float
    ready_s: float
    p50_ms: float
    peak_mb: float
    code_mb: float


def start(model: str, *, saved: bool) -> Started:
    """Start a service, ask it until it answers in JSON, then 20 times with a binary tensor."""
    size = SIZES[model]
    body = json.dumps({"inputs": np.zeros((1, size, size, 3)).tolist()}).encode()
    with repository(model, saved=saved) as models, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        free.close()
        command = [sys.executable, "-m", "securetf", "serve", "--models", models]
        command += ["--rest", address, "--grpc", "127.0.0.1:0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            begin = process_start(process.pid)
            _until_loaded(address, model, process)
            _classify(address, model, body)
            seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - begin
            ready_s = _said_ready(process) - begin
            p50_ms = _p50_ms(address, model)
            return Started(
                seconds, ready_s, p50_ms, kilobytes(process.pid)["VmHWM"] / 1024, _code_mb(process.pid)
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _until_loaded(address: str, model: str, process: subprocess.Popen) -> None:
    """Ask for the model's state until it is served."""
    limit = time.monotonic() + _PATIENCE_S
    while time.monotonic() < limit and process.poll() is None:
        connection = http.client.HTTPConnection(address, timeout=30)
        try:
            connection.request("GET", f"/v1/models/{model}")
            if b"AVAILABLE" in connection.getresponse().read():
                return
        except ConnectionError:
            pass
        finally:
            connection.close()
        time.sleep(_POLL_S)
    raise SystemExit(f"{model} is not served: {process.stderr.read() if process.stderr else ''}")


def _classify(address: str, model: str, body: bytes) -> None:
    """Ask for one image's classes in JSON, as TensorFlow Serving's clients do."""
    _ask(http.client.HTTPConnection(address, timeout=60), "POST", f"/v1/models/{model}:predict", body, {})


def _p50_ms(address: str, model: str) -> float:
    """Ask 20 times with a binary tensor, over one connection."""
    connection = http.client.HTTPConnection(address, timeout=60)
    described = json.loads(_ask(connection, "GET", f"/v2/models/{model}", b"", {}))["inputs"][0]
    size, times = SIZES[model], []
    tensor = np.zeros((1, size, size, 3), np.float32)
    given = {"name": described["name"], "datatype": "FP32", "shape": tensor.shape}
    given["parameters"] = {"binary_data_size": tensor.nbytes}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    for _ in range(20):
        begin = time.perf_counter()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        _ask(connection, "POST", f"/v2/models/{model}/infer", head + tensor.tobytes(), headers)
        times.append((time.perf_counter() - begin) * 1000)
    connection.close()
    return statistics.median(times)


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]
) -> bytes:
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise SystemExit(content)
    return content


def _said_ready(process: subprocess.Popen) -> float:
    """Return when the service said that it is ready, or now if it had said it before."""
    assert process.stderr
    for line in process.stderr:
        if line.startswith("securetf: ready"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
    raise SystemExit("the service ended")


def process_start(pid: int) -> float:
    """Return when a process began, in seconds of CLOCK_BOOTTIME (proc(5): field 22, in 1/100 s)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / 100


def kilobytes(pid: int) -> dict[str, int]:
    """Return the kB figures of a process's status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {one.split(":")[0]: int(one.split()[1]) for one in lines if one.endswith(" kB")}


def _code_mb(pid: int) -> float:
    """Return the size of the files that are mapped to be executed."""
    files = set()
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and "x" in fields[1] and fields[5].startswith("/"):
            files.add(fields[5])
    return sum(Path(one).stat().st_size for one in files if Path(one).is_file()) / 1e6


_FIGURES = (  # field, title, unit, target
    ("seconds", "start to first answer", "s", START_S),
    ("ready_s", "start to ready", "s", None),
    ("p50_ms", "one image: p50", "ms", None),
    ("peak_mb", "peak memory", "MB", None),
    ("code_mb", "mapped code", "MB", None),
)


def _use_memory() -> None:
    """Have the host give what a start will take: touched, and free again."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    mmap.mmap(-1, _AT_HAND_BYTES, flags=flags).close()


def engines(model: str, rounds: int) -> list[Row]:
    """Compare LiteRT and TensorFlow. Our modules' bytecode is there, as in an installed package."""
    compileall.compile_dir(Path(securetf.__file__).parent, quiet=1)
    lite, full, waiting = [], [], []
    for number in range(rounds):
        _use_memory()
        lite.append(start(model, saved=False))
        if number % 2 == 0:
            _use_memory()
            full.append(start(model, saved=True))
            time.sleep(_TAKEN_BACK_S)
            waiting.append(start(model, saved=False).seconds)
    rows = [
        Row(
            name=f"{model}: start to first answer, memory from the host",
            value=statistics.median(waiting),
            unit="s",
        )
    ]
    for name, title, unit, target in _FIGURES:
        value, peer = (statistics.median(getattr(one, name) for one in found) for found in (lite, full))
        rows.append(
            Row(
                name=f"{model}: {title}",
                value=value,
                unit=unit,
                peer="TF",
                peer_value=peer,
                ratio=value / peer,
                target=target,
                met=None if target is None else value <= target,
            )
        )
    return rows
