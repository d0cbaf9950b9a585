"""Runs the launcher in its own process, with real namespaces and programs, but no CAS."""


# ruff: noqa: E501  (shell programs and expected messages)

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

DRIVER = Path(__file__).parents[1] / "unit" / "launcher" / "kernel_launch.py"
GIVEN = "736563726574207468617420746865206f776e657220676176650a"  # "secret that the owner gave\n"


class Launch:
    """One Manifest and the process that runs it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = f"/securetf-test-{uuid.uuid4().hex}"  # mount points at the top of the real root, unique
        self.manifest = directory / "manifest.toml"
        self.config: dict[str, object] = {
            "manifest": str(self.manifest), "events": str(directory / "events"), "report": str(directory / "report"),
        }  # fmt: skip
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        self.processes: list[subprocess.Popen[bytes]] = []

    def write(self, *command: str, tables: str = "", **keys: str) -> "Launch":
        lines = [f"{key} = {value}" for key, value in keys.items()]
        self.manifest.write_text(
            '[session]\nname = "acme/test"\n[workloads.trainer]\n'
            f"command = {json.dumps(list(command))}\n" + "\n".join(lines) + "\n" + tables
        )
        return self

    def shell(self, script: str, tables: str = "", **keys: str) -> "Launch":
        return self.write("/bin/sh", "-c", script, tables=tables, **keys)

    def start(self, **options: object) -> "subprocess.Popen[bytes]":
        config = self.directory / "config.json"
        config.write_text(json.dumps(self.config))
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(config)],
            env=self.environment,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        self.processes.append(process)
        return process

    def run(self) -> "subprocess.CompletedProcess[str]":
        process = self.start()
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess([], process.returncode, out.decode(), err.decode())

    @property
    def events(self) -> list[str]:
        file = self.directory / "events"
        return file.read_text().split("\n")[:-1] if file.exists() else []

    @property
    def report(self) -> dict[str, object]:
        return json.loads((self.directory / "report").read_text())

    def file(self, name: str, timeout_s: float = 20) -> str:
        """Wait for a file that the program writes whole."""
        path = self.directory / name
        until(path.exists, timeout_s)
        return path.read_text()


def until(condition, timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
