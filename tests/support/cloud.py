"""A CAS with an owner, and jobs that run on it: real processes, as a user starts them."""


# ruff: noqa: E501  (Manifests and shell programs)

import json
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from securetf.attester.insecure_simulation import create_platform
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, load_trust
from securetf.keys.owner import OwnerKey, create_owner_key
from securetf.shields.filesystem import closing, open_volume

SECUR_ETF = [sys.executable, "-m", "securetf"]
PLAINTEXT = b"plaintext that the host must never see: 0123456789abcdef\n"


class Cloud:
    """A CAS with a simulated platform, and an owner's key. listen: where the CAS is, IP:PORT."""

    def __init__(self, directory: Path, listen: str = "127.0.0.1:0") -> None:
        self.directory = directory
        self.platform = directory / "platform"
        create_platform(self.platform, datetime.now(UTC))
        self.key_file = directory / "owner.pem"

        self.owner: OwnerKey = create_owner_key(self.key_file)
        self.log = (directory / "cas.log").open("w")
        self.start(listen)
        self.trust_file = directory / "cas.json"
        self.attest()

    def start(self, listen: str = "127.0.0.1:0") -> None:
        self.cas = subprocess.Popen(
            [
                *SECUR_ETF, "cas", "start", "--data", str(self.directory / "cas"), "--listen", listen,
                "--insecure-simulation", str(self.platform), "--insecure-anchor", str(self.directory / "anchor"),
            ],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )  # fmt: skip
        line = self.cas.stdout.readline()
        assert line, (self.directory / "cas.log").read_text()
        self.ready = json.loads(line)

    def attest(self) -> None:
        subprocess.run(
            [
                *SECUR_ETF, "cas", "attest", self.ready["url"], "--out", str(self.trust_file),
                "--insecure-simulation-root", str(self.platform / "root.pem"),
                "--measurement", software_measurement().hex(),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.client = CasClient(load_trust(self.trust_file))

    def stop(self) -> None:
        self.client.close()
        self.cas.terminate()
        self.cas.wait(20)
        self.cas.stdout.close()
        self.log.close()


class Job:
    """One session with its volumes on the host, and runs of it."""

    def __init__(self, cloud: Cloud, directory: Path) -> None:
        self.cloud, self.directory = cloud, directory
        self.base = f"/securetf-test-{uuid.uuid4().hex}"
        self.name = f"acme/{uuid.uuid4().hex}"
        self.manifest = directory / "manifest.toml"
        self.volumes = directory / "volumes"
        self.volumes.mkdir()
        self.measurement = software_measurement().hex()
        self.processes: list[subprocess.Popen[str]] = []

    def text(self, command: list[str], *, workload: str = "", tables: str = "", predecessor: str = "") -> str:
        return (
            f'[session]\nname = "{self.name}"\n{predecessor}\n'
            f'[appraisal.insecure_simulation]\nmr_td = ["{self.measurement}"]\n'
            f"[workloads.trainer]\ncommand = {json.dumps(command)}\n{workload}\n{tables}\n"
        )

    def create(self, text: str) -> None:
        self.manifest.write_text(text)
        self.cloud.client.create_session(text, self.cloud.owner)

    def shell(self, script: str, *, workload: str = "", tables: str = "") -> None:
        self.create(self.text(["/bin/sh", "-c", script], workload=workload, tables=tables))

    def pack(self, volume: str, files: dict[str, bytes]) -> bytes:
        """Pack files into a volume as an owner; return the root."""
        source = self.directory / f"source-{uuid.uuid4().hex}"
        for name, content in files.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
        client = self.cloud.client
        grant = client.packing_grant(self.name, volume, self.cloud.owner)

        def advance(epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes) -> None:
            client.advance(
                grant.volume_id, epoch=epoch, seq=seq, root=root, new_seq=new_seq, new_root=new_root
            )

        with closing(open_volume(self.volumes / volume, grant, advance)) as opened:
            opened.pack(str(source))
        shutil.rmtree(source)
        states = client.read_session(self.name, self.cloud.owner).volumes
        return next(state.root for state in states if state.name == volume)

    def export(self, volume: str, path: str) -> bytes:
        """Read one file out of a volume as an owner."""
        grant = self.cloud.client.export_grant(self.name, volume, self.cloud.owner)
        with closing(open_volume(self.volumes / volume, grant, None)) as opened:
            return opened.cat(path)

    def start(
        self, *options: str, cas: Path | None = None, before: Sequence[str] = ()
    ) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [
                *before, *SECUR_ETF, "run", "trainer", "--manifest", str(self.manifest), "--volumes", str(self.volumes),
                "--cas", str(cas or self.cloud.trust_file), "--insecure-simulation", str(self.cloud.platform),
                "--report", str(self.directory / "report.json"), *options,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *options: str, cas: Path | None = None) -> "subprocess.CompletedProcess[str]":
        process = self.start(*options, cas=cas)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess([], process.returncode, out, err)

    @property
    def report(self) -> dict[str, object]:
        return json.loads((self.directory / "report.json").read_text())


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
