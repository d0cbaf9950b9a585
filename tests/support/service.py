"""A running `securetf serve` for tests, as its own process, and what asks it over bare HTTP."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from securetf.serving.engines import load

MODELS = Path(__file__).parents[1] / "integration" / "serving" / "models"
PATIENCE_S = 60


@dataclass
class Served:
    """rest, grpc: host:port. models: the repository it watches."""

    process: subprocess.Popen
    rest: str
    grpc: str
    models: Path
    log: Path

    def ask(self, method, path, body=None, headers=None, timeout=PATIENCE_S):
        """Return status, headers and body of one HTTP exchange."""
        connection = http.client.HTTPConnection(self.rest, timeout=timeout)
        try:
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None):
        """Return status and document of one HTTP exchange."""
        status, _, content = self.ask(method, path, body, headers)
        return status, json.loads(content)

    def until(self, promise, what):
        """Wait until `promise()` holds; `what` is named when it never does."""
        limit = time.monotonic() + PATIENCE_S
        while not promise():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, f"never: {what}\n{self.log.read_text()}"
            time.sleep(0.02)

    def states(self, model):
        """Return version → (state, message) of a model."""
        _, document = self.json("GET", f"/v1/models/{model}")
        found = document.get("model_version_status", [])
        return {int(one["version"]): (one["state"], one["status"]["error_message"]) for one in found}


def put(repository: Path, model: str, version: int, file: str = "") -> Path:
    """Put a packaged test model into a repository, whole at once, as old as a packed volume."""
    folder = repository / model / str(version)
    hidden = repository / model / f".{version}"
    hidden.mkdir(parents=True)
    shutil.copy(MODELS / f"{file or model}.tflite", hidden / "model.tflite")
    os.utime(hidden / "model.tflite", (1, 1))
    hidden.rename(folder)
    return folder


@contextmanager
def serving(models: Path, *options: str, environment: dict | None = None, wait: bool = True):
    """Run `securetf serve` over a repository on free ports and end it afterwards."""
    log = models.parent / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-m", "securetf", "serve", "--models", models, "--poll", "0.1"]
    command += ["--rest", "127.0.0.1:0", "--grpc", "127.0.0.1:0", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(one) for one in command], stderr=stream, env={**os.environ, **(environment or {})}
        )
    try:
        served = Served(process, "", "", models, log)
        pattern = re.compile(r"listening: rest (\S+), grpc (\S+)")
        served.until(lambda: pattern.search(log.read_text()), "listening")
        served.rest, served.grpc = pattern.search(log.read_text()).groups()
        if wait:
            served.until(lambda: "securetf: ready" in log.read_text(), "ready")
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def engine(file: str):
    """Return the engine itself, with the same number of threads as a service has by default."""
    return load(MODELS / f"{file}.tflite", workers=1, threads=1)[0]


def direct(file: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the engine answers when it is called directly."""
    return engine(file).infer("serving_default", inputs)
