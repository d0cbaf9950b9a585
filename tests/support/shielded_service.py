"""`securetf serve` under the shields on a machine of its own, over a volume of models."""

import subprocess
import sys
from pathlib import Path

import securetf
from support.cloud import SECUR_ETF, Cloud, Job
from support.hosts import Hosts
from support.pair import Run
from support.service import MODELS

REST, GRPC = 8443, 8444


def model(name: str) -> bytes:
    """Return a packaged test model."""
    return (MODELS / f"{name}.tflite").read_bytes()


class Service:
    """A LiteRT model in a volume, `securetf serve` over it on a host of its own, and its customer's files."""

    root = ""  # of the volume, for tests that pack it

    def __init__(self, directory: Path, hosts: Hosts) -> None:
        self.directory, self.hosts = directory, hosts
        self.cloud = Cloud(directory, f"{hosts.address}:0")
        self.job = Job(self.cloud, directory)
        self.models = f"{self.job.base}/m"
        self.rest, self.grpc = (f"https://{hosts.addresses[0]}:{port}" for port in (REST, GRPC))
        self.policy, self.saved = directory / "policy.toml", directory / "saved.json"

    def create(self, tables: str, *options: str) -> None:
        """Make the session; `tables` has the volume `models`, and what else the Manifest shall have."""
        workload = (
            f'volumes = {{ models = "{self.models}:ro" }}\nreceipts = true\n'
            f"[workloads.trainer.outside]\nrest = {{ port = 8501, public = {REST} }}\n"
            f"grpc = {{ port = 8500, public = {GRPC} }}\n"
        )
        source = Path(securetf.__file__).parents[1]  # an installed package, or the checkout
        serve = [sys.executable, "-m", "securetf", "serve", "--models", self.models, *options]
        command = ["/usr/bin/env", f"PYTHONPATH={source}", *serve]
        self.job.create(self.job.text(command, workload=workload, tables=tables))

    def start(self) -> None:
        """Start the service on its host."""
        self.run = Run(self.hosts.on(0, self.command("trainer")), self.directory / "run.log")

    def command(self, workload: str) -> list[str]:
        """Return what runs a workload of the session."""
        return [
            *SECUR_ETF, "run", workload, "--manifest", str(self.job.manifest),
            "--volumes", str(self.job.volumes), "--cas", str(self.cloud.trust_file),
            "--insecure-simulation", str(self.cloud.platform),
        ]  # fmt: skip

    def ready(self) -> None:
        """Wait for it, and make the customer's policy."""
        self.run.wait_for("securetf: ready")
        print_policy = self.cli("verify", self.rest, "--print-policy", str(self.cloud.trust_file))
        self.policy.write_text(print_policy.stdout)
        verified = self.cli("verify", self.rest, "--policy", str(self.policy), "--save", str(self.saved))
        assert verified.returncode == 0, verified.stdout + verified.stderr

    def cli(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command line."""
        return subprocess.run([*SECUR_ETF, *arguments], capture_output=True, text=True, check=False)

    def stop(self) -> None:
        """End it, and the CAS."""
        self.run.process.terminate()
        self.run.process.wait(60)
        self.cloud.stop()
