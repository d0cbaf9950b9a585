"""A CAS whose own machine has a real software TPM: its Evidence, its sealed root key and its counter."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_transport import TpmAddress
from securetf.cas_client import CasClient, load_trust
from securetf.cli import command
from securetf.errors import SecuretfError
from securetf.evidence.tpm2_quote import SHA256
from securetf.keys import OwnerKey
from support.authority import issue
from support.swtpm import SoftwareTpm, make_tpm

from .conftest import MAIN, Process

pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)
KEYLESS = ("tdx", "nitro")  # TEEs that derive no keys; the others are in test_tee_sealing.py
MANIFEST = '[session]\nname = "acme/kept"\n[appraisal.tpm2.pcrs]\npcr0 = ["{}"]\n'.format("0" * 64)


class OnTpm(Process):
    """`securetf cas start --attester tpm2` with a TPM that runs as long as a test says."""

    def __init__(self, directory: Path, tpm: SoftwareTpm) -> None:
        super().__init__(directory)
        self.tpm, self.stack = tpm, ExitStack()
        self.more: list[str] = []

    def power_on(self) -> None:
        self.address = self.stack.enter_context(self.tpm.running())

    def power_off(self) -> None:
        self.stack.close()

    def command(self, listen: str = "127.0.0.1:0") -> list[str]:
        return [
            *MAIN, "cas", "start", "--data", str(self.directory / "data"), "--listen", listen,
            "--attester", "tpm2", "--tpm", self.address, "--root-key", "tpm:0,9",
            "--endorsements", str(self.directory / "cache"), "--offline", *self.more,
        ]  # fmt: skip

    def refused(self) -> str:
        """Start, and return why it did not."""
        done = subprocess.run(self.command(), capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode != 0
        return done.stderr

    def pcr(self, index: int) -> str:
        with TpmClient(TpmAddress.parse(self.address).open()) as client:
            return client.read_pcrs(SHA256, [index])[index].hex()

    def attest(self, roots: Path, **pcrs: str) -> "subprocess.CompletedProcess[str]":
        policy = self.directory / "policy.toml"
        rows = "".join(f'{name} = ["{value}"]\n' for name, value in pcrs.items())
        policy.write_text(f"[appraisal.tpm2.pcrs]\n{rows}")
        command = [
            *MAIN, "cas", "attest", self.ready["url"], "--policy", str(policy), "--tpm-roots", str(roots),
            "--endorsements", str(self.directory / "cache"), "--offline",
            "--out", str(self.directory / "cas.json"),
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def manufactured(tmp_path_factory: pytest.TempPathFactory) -> SoftwareTpm:
    return make_tpm(tmp_path_factory.mktemp("tpm"))


@pytest.fixture
def own(tmp_path: Path, manufactured: SoftwareTpm) -> Iterator[OnTpm]:
    tpm = SoftwareTpm(shutil.copytree(manufactured.directory, tmp_path / "tpm"))
    # The CAS sends its EK's certificate; its client has issuer and root.
    both = tpm.issuers_pem.read_text() + tpm.roots_pem.read_text()
    (tmp_path / "roots.pem").write_text(both)
    made = OnTpm(tmp_path, tpm)
    made.power_on()
    yield made
    if made.process is not None:
        made.stop()
    made.power_off()


def test_cas_when_on_a_tpm_then_attested_and_its_state_survives_a_restart_of_the_machine(own: OnTpm) -> None:
    pcr0 = own.pcr(0)
    own.start()
    assert own.ready["simulated"] is False
    done = own.attest(own.directory / "roots.pem", pcr0=pcr0)
    assert done.returncode == 0, done.stderr
    assert "3. report data binds our nonce" in done.stdout
    trust = load_trust(own.directory / "cas.json")
    assert (trust.platform, trust.simulated) == ("tpm2", False)
    with CasClient(trust) as client:
        client.create_session(MANIFEST, owner := OwnerKey.generate())
    before = own.ready["spki_sha256"]
    assert own.stop() == 0
    own.power_off()
    own.power_on()
    own.start()
    assert own.ready["spki_sha256"] == before
    renewed = CasClient(trust.__class__(**_fields(trust) | {"url": own.ready["url"]}))
    with renewed as client:
        assert client.read_session("acme/kept", owner).version == 1


def _fields(trust: object) -> dict[str, object]:
    return {name: getattr(trust, name) for name in trust.__struct_fields__}  # type: ignore[attr-defined]


def test_cas_when_its_pcrs_or_its_manufacturer_are_not_those_of_the_owner_then_refused(
    own: OnTpm, tmp_path: Path
) -> None:
    pcr0 = own.pcr(0)
    own.start()
    done = own.attest(own.directory / "roots.pem", pcr0="1" * 64)
    assert (done.returncode, f"pcr0 is {pcr0}" in done.stderr) == (11, True), done.stderr
    strangers = tmp_path / "strangers.pem"
    strangers.write_bytes(issue("another manufacturer").certificate.public_bytes(Encoding.PEM))
    done = own.attest(strangers, pcr0=pcr0)
    assert (done.returncode, "the EK certificate chain" in done.stderr) == (10, True), done.stderr


def test_cas_when_its_pcrs_changed_then_the_tpm_keeps_the_root_key(own: OnTpm) -> None:
    own.start()
    assert own.stop() == 0
    with TpmClient(TpmAddress.parse(own.address).open()) as client:
        client.extend_pcr(9, SHA256, b"\1" * 32)
    assert "PCRs [0, 9] are not those of the time of sealing" in own.refused()


def test_cas_when_database_and_anchor_are_put_back_then_refused(own: OnTpm, tmp_path: Path) -> None:
    own.start()
    assert own.stop() == 0
    copy = tmp_path / "copy"
    shutil.copytree(own.directory / "data", copy)
    own.start()
    own.stop()
    shutil.rmtree(own.directory / "data")
    shutil.copytree(copy, own.directory / "data")
    assert "an older file was put back" in own.refused()


def test_options_when_they_do_not_go_together_or_nothing_keeps_the_root_key_then_refused(
    tmp_path: Path,
) -> None:
    start = ["cas", "start", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    for more, reason in (
        ((), "it is not said what keeps the CAS's root key"),
        (("--attester", "tpm2", "--anchor", "file:x"), "`--anchor file` is not in this release"),
        (("--attester", "tpm2", "--anchor", "tpm:12"), "expected 0x1800000 to"),
        (("--attester", "tpm2", "--root-key", "tpm:0,24"), "expected 0x0 to 0x17"),
        (("--attester", "tpm2", "--insecure-anchor", "x"), "`--insecure-anchor` beside `--attester`"),
        *((("--attester", name), f"a CAS on {name} has nothing that keeps") for name in KEYLESS),
    ):
        runner = CliRunner(catch_exceptions=True)
        result = runner.invoke(command, [*start, *more])
        assert isinstance(result.exception, SecuretfError), result.output
        assert reason in result.exception.problem
