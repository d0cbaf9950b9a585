"""The example `document-digitisation`, whole: trained, converted, served, verified, read, receipted; on
printed lines that are drawn here.
"""

import importlib.util
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import securetf
from securetf.attester.measurement import software_measurement
from securetf.demo.host import expect_no_plaintext
from support.cloud import SECUR_ETF, Cloud
from support.pair import Run

pytestmark = [
    pytest.mark.root,
    pytest.mark.tensorflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts"),
]
EXAMPLE = Path(__file__).parents[3] / "examples" / "document-digitisation"
EPOCHS, LINES = 40, {"train": 64, "test": 4}


def draw(data: Path) -> None:
    """Write lines of few letters with the example's own script, so that few steps are enough."""
    spec = importlib.util.spec_from_file_location("prepare_data", EXAMPLE / "prepare_data.py")
    assert spec is not None
    assert spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    prepare.write(prepare.rendered(LINES, letters="no"), data)


class Firm:
    """The firm with its Manifest, and what it hands to its customers: address, policy, characters."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cloud = Cloud(directory)
        self.volumes, self.data = directory / "volumes", directory / "data"
        self.manifest, self.policy = directory / "manifest.toml", directory / "policy.toml"
        self.saved = directory / "saved.json"
        self.base = f"/securetf-test-{uuid.uuid4().hex}"
        self.manifest.write_text(self.adapted((EXAMPLE / "manifest.toml").read_text()))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.server: Run | None = None

    def adapted(self, text: str) -> str:
        """Fill in what its head says, fewer epochs, and mount points of this test alone."""
        source = Path(securetf.__file__).parents[1]  # an installed package, or the checkout
        changes = [
            ("0{96}", software_measurement().hex()),
            ('"/usr/bin/python3", "-m"', f'"/usr/bin/env", "PYTHONPATH={source}", "{sys.executable}", "-m"'),
            ("/usr/bin/python3", sys.executable),
            ('"/data", "/model"]', f'"/data", "/model", "{EPOCHS}"]'),
            (r'"/(?=(app|data|keras|model|models)\b)', f'"{self.base}/'),
            (r"(?<=\[volumes\.models\]\n)", 'export = ["creator"]\n'),  # to search for it on the host
        ]
        for pattern, replacement in changes:
            text, count = re.subn(pattern, replacement, text)
            assert count, pattern
        return text

    def cli(self, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        command = [*SECUR_ETF, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def must(self, *arguments: str | Path) -> str:
        done = self.cli(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def owner(self) -> tuple[str | Path, ...]:
        return ("--cas", self.cloud.trust_file, "--session", "demo/lines", "--key", self.cloud.key_file)

    def work(self) -> None:
        """Create, pack, train, convert, serve, and write a customer's policy."""
        cas, platform = ("--cas", self.cloud.trust_file), ("--insecure-simulation", self.cloud.platform)
        self.must("session", "create", self.manifest, *cas, "--key", self.cloud.key_file)
        draw(self.data)
        self.volumes.mkdir()
        code = self.directory / "code"
        code.mkdir()
        (code / "train.py").write_bytes((EXAMPLE / "train.py").read_bytes())
        for volume, source in (("train-data", self.data), ("code", code)):
            self.must("volume", "pack", source, self.volumes / volume, "--volume", volume, *self.owner)
        run = ("--manifest", self.manifest, *cas, "--volumes", self.volumes, *platform)
        assert "character error rate on 4 test lines" in self.must("run", "trainer", *run)
        assert "largest relative difference" in self.must("run", "converter", *run)
        serve = [*SECUR_ETF, "run", "server", *map(str, run), "--outside", f"rest={self.address}"]
        self.server = Run(serve, self.directory / "server.log")
        self.server.wait_for("securetf: ready")
        url = f"https://{self.address}"
        self.policy.write_text(self.must("verify", url, "--print-policy", self.cloud.trust_file))
        self.must("verify", url, "--policy", self.policy, "--save", self.saved)

    def read_page(self, policy: Path, *more: str | Path) -> "subprocess.CompletedProcess[str]":
        given = [f"https://{self.address}", policy, self.data / "characters.json", *self.lines, *more]
        command = [sys.executable, EXAMPLE / "read_page.py", *given]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    @property
    def lines(self) -> list[Path]:
        return sorted((self.data / "test").glob("*.jpg"))

    def stop(self) -> None:
        if self.server is not None:
            self.server.process.terminate()
            self.server.process.wait(60)
        self.cloud.stop()


@pytest.fixture(scope="module")
def firm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firm]:
    one = Firm(tmp_path_factory.mktemp("firm"))
    try:
        one.work()
        yield one
    finally:
        one.stop()


def test_customer_when_the_service_proves_itself_gets_each_line_s_text_and_a_receipt_for_it(
    firm: Firm, tmp_path: Path
) -> None:
    done = firm.read_page(firm.policy, "--receipts", tmp_path, "--truth", firm.data / "labels.tsv")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(firm.lines)
    rate = re.search(r"character error rate (\S+)", done.stderr)
    assert rate is not None
    assert float(rate[1]) < 0.1, done.stdout  # of a model that learned nothing 1, of guesses more than 0.5
    for line in firm.lines:
        request, response, receipt = (
            tmp_path / f"{line.stem}.{kind}" for kind in ("request", "response", "receipt")
        )
        given = ("--policy", firm.policy, "--statement", firm.saved, "--request", request)
        firm.must("receipt", "verify", receipt, *given, "--response", response)
    other = firm.cli("receipt", "verify", receipt, *given, "--response", tmp_path / "00000.response")
    assert other.returncode == 17
    assert "response" in other.stdout


def test_customer_when_the_service_has_another_model_than_his_policy_names_sends_no_line(
    firm: Firm, tmp_path: Path
) -> None:
    other = tmp_path / "policy.toml"
    text, count = re.subn(r'(?<=roots = \[")[0-9a-f]{64}', "5a" * 32, firm.policy.read_text())
    assert count == 1, text
    other.write_text(text)
    done = firm.read_page(other)
    assert done.returncode == 1
    assert done.stdout == ""
    refused = "did not prove what the policy asks for; nothing was sent: 18 volumes: models has the root"
    assert refused in done.stderr


def test_host_when_all_has_run_holds_no_piece_of_code_data_or_model(firm: Firm, tmp_path: Path) -> None:
    firm.must(
        "volume", "unpack", firm.volumes / "models", tmp_path / "models", "--volume", "models", *firm.owner
    )
    kinds = {
        "code": [firm.directory / "code" / "train.py"],
        "data": [firm.data / "labels.tsv", *sorted((firm.data / "train").glob("*.jpg"))[:8]],
        "model": [tmp_path / "models" / "lines" / "1" / "model.tflite"],
    }
    counts = expect_no_plaintext([firm.volumes, firm.directory / "cas", firm.directory / "anchor"], kinds)
    assert all(count > 30 for count in counts.values()), counts
