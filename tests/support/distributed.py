"""The examples of distributed training on several hosts, with securetf and without."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from securetf.attester.measurement import software_measurement
from support.cloud import SECUR_ETF, Cloud, Job
from support.hosts import Hosts

EXAMPLES = Path(__file__).parents[2] / "examples"
LEAN_START = str(Path(__file__).with_name("lean_start"))
TUNNEL_PORT, TF_PORT = 15443, 2222
PATIENCE_S = 240  # TensorFlow starts in 6 s alone on a core, and not seldom on a busy machine
ENVIRONMENT = {  # what the Manifests and the launcher give
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "PYTHONPATH": LEAN_START,
}
CANARY_BYTES, CANARIES = 32, 200
Member = tuple[str, int]


class Task:
    """One process of a cluster; what it says goes to a file."""

    def __init__(self, name: str, command: list[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log = name, log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(environment)
            )

    @property
    def said(self) -> str:
        """All that it said so far, earlier tasks with the same file included."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until it has said something; an end before that is an error."""
        end = time.monotonic() + timeout_s
        while text not in self.said:
            assert self.process.poll() is None, f"{self.name} ended without {text!r}:\n{self.said[-4000:]}"
            assert time.monotonic() < end, f"{self.name} never said {text!r}:\n{self.said[-4000:]}"
            time.sleep(0.05)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end; return the exit status."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} does not end:\n{self.said[-4000:]}") from None

    def succeeded(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait for its end, which must be a good one."""
        status = self.wait(timeout_s)
        assert status == 0, f"{self.name} ended with {status}:\n{self.said[-4000:]}"

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal, and wait for its end."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait(30)


def end(tasks: Iterable[Task]) -> None:
    """Stop tasks as an operator does: SIGTERM, and SIGKILL for those that do not end."""
    tasks = list(tasks)
    for task in tasks:
        if task.process.poll() is None:
            task.process.terminate()
    for task in tasks:
        try:
            task.process.wait(20)
        except subprocess.TimeoutExpired:
            task.kill()


class Unshielded:
    """A cluster of plain TensorFlow, one task on each host."""

    def __init__(
        self, hosts: Hosts, example: str, members: list[Member], directory: Path, data: Path
    ) -> None:
        self.hosts, self.example, self.members = hosts, example, members
        self.directory, self.data = directory, data
        self.tasks: list[Task] = []
        directory.mkdir(parents=True, exist_ok=True)

    def start(self, member: Member, *arguments: str, program: str = "train.py", **environment: str) -> Task:
        """Start one task on its host."""
        cluster: dict[str, list[str]] = {}
        for (kind, _), entry in zip(self.members, self.entries(), strict=True):
            cluster.setdefault(kind, []).append(entry)
        config = json.dumps({"cluster": cluster, "task": {"type": member[0], "index": member[1]}})
        command = [sys.executable, str(EXAMPLES / self.example / program), str(self.data)]
        command = self.wrap(member, [*command, str(self.output(member)), *arguments])
        task = Task(
            f"{member[0]}-{member[1]}",
            self.hosts.on(self.members.index(member), command),
            self.directory / f"{member[0]}-{member[1]}.log",
            ENVIRONMENT | {"HOME": str(self.directory), "TF_CONFIG": config} | environment,
        )
        self.tasks.append(task)
        return task

    def entries(self) -> list[str]:
        """Return where each task is reached, in the order of `members`."""
        return [f"{address}:{TF_PORT}" for address in self.hosts.addresses[: len(self.members)]]

    def wrap(self, member: Member, command: list[str]) -> list[str]:  # noqa: ARG002  (benchmarks override it)
        """Return what runs in place of a task's command."""
        return command

    def output(self, member: Member) -> Path:
        """Where a task writes."""
        return self.directory / f"{member[0]}-{member[1]}"

    def read(self, member: Member, path: str) -> bytes:
        """Return a file that a task wrote."""
        return (self.output(member) / path).read_bytes()


class Shielded(Job):
    """A cluster under securetf: a session made from an example's Manifest, one member on each host."""

    def __init__(
        self, cloud: Cloud, hosts: Hosts, example: str, members: list[Member], directory: Path
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(cloud, directory)
        self.hosts, self.example, self.members = hosts, example, members
        self.tasks: list[Task] = []

    def manifest_text(
        self,
        *arguments: str,
        program: str = "train.py",
        tables: str = "",
        environment: str = "",
        spare: int = 0,
    ) -> str:
        """Return the example's Manifest for this machine and these arguments of the program.

        spare: how many of the workers may come and go.
        """
        text = (EXAMPLES / self.example / "manifest.toml").read_text()
        extra = "".join(f', "{one}"' for one in arguments)
        for old, new in (
            (r'^name = ".*"', f'name = "{self.name}"'),
            ("0{96}", software_measurement().hex()),
            (r'"/usr/bin/python3"', f'"{sys.executable}"'),
            (r'"/app/train.py"(.*)\]', rf'"/app/{program}"\1{extra}]'),
            ('(TF_CPP_MIN_LOG_LEVEL = "2")( })?', self._variables(environment)),
            (r'"/(app|data|checkpoints)', rf'"{self.base}/\1'),
        ):  # fmt: skip
            text, replaced = re.subn(old, new, text, flags=re.MULTILINE)
            assert replaced, old
        written = {"minimum = 3, maximum = 3": "worker", "minimum = 2, maximum = 8": "worker"}
        written["minimum = 2, maximum = 2"] = "ps"

        def count(found: re.Match[str]) -> str:
            number = sum(kind == written[found[0]] for kind, _ in self.members)
            least = number - spare if written[found[0]] == "worker" else number
            return f"minimum = {least}, maximum = {number}"

        text = re.sub("|".join(written), count, text)
        return text + tables

    @staticmethod
    def _variables(more: str) -> Callable[[re.Match[str]], str]:
        path = f'PYTHONPATH = "{LEAN_START}"'
        return lambda found: f"{found[1]}, {path} }}" if found[2] else f"{found[1]}\n{path}{more}"

    def pack_all(self, data: Path, changed: str = "") -> None:
        """Pack the example's programs and the data. changed: is added to each program."""
        programs = (EXAMPLES / self.example).glob("*.py")
        self.pack("code", {one.name: one.read_bytes() + changed.encode() for one in programs})
        self.pack("train-data", {one.name: one.read_bytes() for one in data.iterdir()})

    def launch(self, member: Member, *options: str, manifest: Path | None = None) -> Task:
        """Start `securetf run` for one member on its host."""
        workload, instance = member
        host = self.members.index(member)
        name = f"{workload}-{instance}"
        command = [
            *SECUR_ETF, "run", workload, "--instance", str(instance),
            "--tunnel", f"{self.hosts.addresses[host]}:{TUNNEL_PORT}",
            "--manifest", str(manifest or self.manifest), "--cas", str(self.cloud.trust_file),
            "--volumes", str(self.volumes), "--insecure-simulation", str(self.cloud.platform),
            "--report", str(self.directory / f"{name}.json"), *options,
        ]  # fmt: skip
        task = Task(name, self.hosts.on(host, command), self.directory / f"{name}.log", os.environ)
        self.tasks.append(task)
        return task

    def volume_of(self, member: Member) -> str:
        """Return the name of the volume that a member writes."""
        return f"checkpoints.{member[1]}" if member[0] == "worker" else "checkpoints"

    def read(self, member: Member, path: str) -> bytes:
        """Return a file that a member wrote, as its owner takes it out."""
        return self.export(self.volume_of(member), path)

    def report_of(self, member: Member) -> dict[str, object]:
        """Return the report of a member's last run."""
        return json.loads((self.directory / f"{member[0]}-{member[1]}.json").read_text())


def small_data(source: Path, target: Path) -> None:
    """Write the first 2,000 and 500 images of an `mnist.npz` as another one."""
    target.mkdir(parents=True)
    with np.load(source) as file:
        some = {name: file[name][: 2000 if "train" in name else 500] for name in file.files}
    np.savez(target / "mnist.npz", **some)


def canaries(arrays: Iterable[np.ndarray], *, distinct: int = CANARY_BYTES // 2) -> list[bytes]:
    """Return some pieces of arrays as they lie in memory, each unlikely to occur anywhere by chance.

    distinct: how many different bytes a piece has at least.
    """
    found = []
    for array in arrays:
        raw = np.ascontiguousarray(array).tobytes()
        for place in range(0, len(raw) - CANARY_BYTES + 1, CANARY_BYTES):
            piece = raw[place : place + CANARY_BYTES]
            if len(set(piece)) >= distinct:
                found.append(piece)
    assert len(found) >= 10
    return found[:: len(found) // CANARIES + 1]
