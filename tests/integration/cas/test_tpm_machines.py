"""Machines with a real software TPM and a running CAS: enrolled, quoted, appraised.

The CAS is a simulation that verifies hardware; its client is the command line.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from securetf.attester import Attester, Devices, hardware
from securetf.attester.composite import CompositeAttester
from securetf.attester.insecure_simulation import SimulatedTdx
from securetf.attester.measurement import software_measurement
from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_transport import TpmAddress
from securetf.cas_client import CasClient
from securetf.claims import Evidence, Platform
from securetf.errors import (
    BindingError,
    MeasurementError,
    PlatformNotAllowedError,
    SignatureError,
    UnsupportedPlatformError,
)
from securetf.evidence import tcg_event_log, tpm2, tpm2_quote
from securetf.keys import OwnerKey
from securetf.manifest import parse
from securetf.provisioning import Provision
from support.swtpm import SoftwareTpm, make_tpm
from support.tpm2 import LOG

from .conftest import MAIN, Process

pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)


class HardwareProcess(Process):
    """A CAS in simulation that verifies hardware too, with these roots of TPMs."""

    roots: Path

    def command(self, listen: str = "127.0.0.1:0") -> list[str]:
        verifying = ["--endorsements", str(self.directory / "cache"), "--offline"]
        return [*super().command(listen), *verifying, "--tpm-roots", str(self.roots)]


@dataclass
class Machine:
    """A machine with a TPM that runs, and its enrolled key."""

    tpm: SoftwareTpm
    address: str
    key: Path

    def attester(self) -> Attester:
        devices = Devices(tpm=TpmAddress.parse(self.address), tpm_key=self.key)
        return hardware.make(("tpm2",), devices, {})

    def pcr(self, index: int) -> str:
        with TpmClient(TpmAddress.parse(self.address).open()) as client:
            return client.read_pcrs(tpm2_quote.SHA256, [index])[index].hex()

    def extend(self, index: int) -> None:
        with TpmClient(TpmAddress.parse(self.address).open()) as client:
            client.extend_pcr(index, tpm2_quote.SHA256, b"\1" * 32)


def enrol(cas_file: Path, address: str, key: Path, issuers: Path) -> "subprocess.CompletedProcess[str]":
    command = [*MAIN, "tpm", "enrol", "--cas", str(cas_file), "--tpm", address, "--tpm-key", str(key)]
    return subprocess.run(
        [*command, "--issuers", str(issuers)], capture_output=True, text=True, check=False, timeout=60
    )


@dataclass
class Site:
    """One CAS, one enrolled machine, and the owner."""

    cas: Process
    machine: Machine
    owner: OwnerKey
    trust_file: Path
    number: int = 0

    def session(self, appraisal: str, script: str = "true") -> "Session":
        """Create a session with what it accepts."""
        self.number += 1
        name = f"acme/tpm{self.number}"
        text = (
            f'[session]\nname = "{name}"\n{appraisal}\n[secrets.token]\nkind = "random"\nsize_bytes = 32\n'
            f'[workloads.trainer]\ncommand = ["/bin/sh", "-c", "{script}"]\n'
            'secrets = { token = "env:TOKEN" }\n'
        )
        with CasClient(self.cas.trust()) as client:
            client.create_session(text, self.owner)
        return Session(self, name, text)


@dataclass
class Session:
    site: Site
    name: str
    text: str

    def provision(self, attester: Attester) -> Provision:
        with CasClient(self.site.cas.trust()) as client:
            return client.provision(self.name, "trainer", parse(self.text), attester)[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    tpm = make_tpm(directory / "tpm")
    cas = HardwareProcess(directory)
    cas.roots = tpm.roots_pem
    cas.start()
    trust_file = directory / "cas.json"
    done = subprocess.run(
        [
            *MAIN, "cas", "attest", cas.ready["url"], "--out", str(trust_file), "--insecure-simulation-root",
            str(cas.platform / "root.pem"), "--measurement", software_measurement().hex(),
        ],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with tpm.running() as address:
        key = directory / "key"
        done = enrol(trust_file, address, key, tpm.issuers_pem)
        assert done.returncode == 0, done.stderr
        assert "platform id of this machine" in done.stdout
        yield Site(cas, Machine(tpm, address, key), OwnerKey.generate(), trust_file)
    assert cas.stop() == 0


def tpm_policy(machine: Machine, *pcrs: int) -> str:
    rows = "".join(f'pcr{index} = ["{machine.pcr(index)}"]\n' for index in pcrs)
    return f"[appraisal.tpm2.pcrs]\n{rows}"


def simulation_policy() -> str:
    return f'[appraisal.insecure_simulation]\nmr_td = ["{software_measurement().hex()}"]\n'


def test_manifest_when_it_names_tpm_and_simulation_then_both_machines_get_their_provision(site: Site) -> None:
    session = site.session(simulation_policy() + tpm_policy(site.machine, 0, 9))
    for attester in (site.machine.attester(), SimulatedTdx(site.cas.platform, {})):
        assert len(session.provision(attester).secrets["token"]) == 32


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for mounts")
def test_program_when_run_on_a_tpm_machine_then_gets_its_secret_and_so_beside_a_simulated_tee(
    site: Site, tmp_path: Path
) -> None:
    script = "test ${#TOKEN} = 64 && echo has its secret"
    required = '[appraisal]\nrequire = ["tpm2"]\n'
    session = site.session(required + simulation_policy() + tpm_policy(site.machine, 0), script)
    manifest = tmp_path / "manifest.toml"
    manifest.write_text(session.text)
    run = [*MAIN, "run", "trainer", "--manifest", str(manifest), "--cas", str(site.trust_file)]
    tpm = ["--attester", "tpm2", "--tpm", site.machine.address, "--tpm-key", str(site.machine.key)]
    simulation = ["--insecure-simulation", str(site.cas.platform)]
    for options in (tpm, [*simulation, *tpm]):
        done = subprocess.run([*run, *options], capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, done.stdout) == (0, "has its secret\n"), done.stderr
    done = subprocess.run([*run, *simulation], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, "requires Evidence of tpm2" in done.stderr) == (11, True), done.stderr


def test_hardware_policy_when_the_cas_takes_simulations_then_still_refuses_them(site: Site) -> None:
    session = site.session(tpm_policy(site.machine, 0))
    with pytest.raises(PlatformNotAllowedError, match="insecure_simulation"):
        session.provision(SimulatedTdx(site.cas.platform, {}))


def test_key_when_enrolled_twice_then_the_same_and_of_another_tpm_then_refused(
    site: Site, tmp_path: Path
) -> None:
    before = site.machine.key.read_bytes()
    done = enrol(site.trust_file, site.machine.address, site.machine.key, site.machine.tpm.issuers_pem)
    assert (done.returncode, site.machine.key.read_bytes()) == (0, before)
    stranger = make_tpm(tmp_path / "stranger")
    with stranger.running() as address:
        done = enrol(site.trust_file, address, tmp_path / "key", stranger.issuers_pem)
        assert (done.returncode, "is not signed by" in done.stderr) == (10, True), done.stderr
        session = site.session(tpm_policy(site.machine, 0))
        with pytest.raises(SignatureError, match="neither certified nor enrolled"):
            session.provision(Machine(stranger, address, tmp_path / "key").attester())


class Lying:
    """Changes what a TPM's attester gives, as a host between could."""

    platform = Platform.TPM2

    def __init__(self, attester: Attester, event_log: bytes) -> None:
        self._attester, self._event_log = attester, event_log

    def attest(self, report_data: bytes) -> Evidence:
        told = tpm2.parse(self._attester.attest(report_data).raw)
        fields = {name: getattr(told, name) for name in told.__slots__} | {"event_log": self._event_log}
        return Evidence(Platform.TPM2, tpm2.encode(tpm2.Tpm2Evidence(**fields)))


def test_event_log_when_it_does_not_replay_to_the_quoted_pcrs_then_refused(site: Site) -> None:
    session = site.session(tpm_policy(site.machine, 0))
    lying = Lying(site.machine.attester(), tcg_event_log.encode(LOG))
    with pytest.raises(SignatureError, match="event log does not replay to the quoted PCRs"):
        session.provision(lying)


def test_composite_when_required_then_both_parts_are_appraised_and_in_the_token(site: Site) -> None:
    required = '[appraisal]\nrequire = ["insecure_simulation", "tpm2"]\n'
    session = site.session(required + simulation_policy() + tpm_policy(site.machine, 0))
    machine = SimulatedTdx(site.cas.platform, {})
    both = CompositeAttester(machine, [site.machine.attester()])
    assert len(session.provision(both).secrets["token"]) == 32
    for alone, missing in ((machine, "tpm2"), (site.machine.attester(), "insecure_simulation")):
        with pytest.raises(
            PlatformNotAllowedError, match=f"requires Evidence of {missing}, which is missing"
        ):
            session.provision(alone)
    with pytest.raises(UnsupportedPlatformError, match="composite Evidence of tpm2 with insecure_simulation"):
        session.provision(CompositeAttester(site.machine.attester(), [machine]))


class Spliced:
    """A TPM's Evidence of another attestation in the place of the one that the machine saw."""

    platform = Platform.INSECURE_SIMULATION

    def __init__(self, machine: Attester, tpm: Attester, *, same_data: bool) -> None:
        self._machine, self._tpm, self._same_data = machine, tpm, same_data

    def attest(self, report_data: bytes) -> Evidence:
        told = CompositeAttester(self._machine, [self._tpm]).attest(report_data)
        other = self._tpm.attest(report_data if self._same_data else bytes(64))
        return Evidence(told.platform, told.raw, (other,))


@pytest.mark.parametrize(
    ("same_data", "reason"), [(True, "report data"), (False, "report data")], ids=["same nonce", "old"]
)
def test_composite_when_the_quote_is_not_the_one_that_the_machine_saw_then_refused(
    site: Site, same_data: bool, reason: str
) -> None:
    session = site.session(simulation_policy() + tpm_policy(site.machine, 0))
    machine = SimulatedTdx(site.cas.platform, {})
    with pytest.raises(BindingError, match=reason):
        session.provision(Spliced(machine, site.machine.attester(), same_data=same_data))


def test_pcr_when_changed_after_the_manifest_then_refused_alone_and_in_composite_evidence(site: Site) -> None:
    session = site.session(simulation_policy() + tpm_policy(site.machine, 0, 9))
    site.machine.extend(9)
    with pytest.raises(MeasurementError, match=f"pcr9 is {site.machine.pcr(9)}"):
        session.provision(site.machine.attester())
    both = CompositeAttester(SimulatedTdx(site.cas.platform, {}), [site.machine.attester()])
    with pytest.raises(MeasurementError, match=f"pcr9 is {site.machine.pcr(9)}"):
        session.provision(both)
