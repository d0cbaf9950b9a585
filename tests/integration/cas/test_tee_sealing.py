"""A CAS whose root key is sealed by its TEE, while a real software TPM counts.

SGX: the process itself, on Gramine's pseudo-files as plain files. SEV-SNP: what the process opens, in this
one, since no file answers an ioctl.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from securetf.attester import Devices
from securetf.attester.tpm_client import TpmClient
from securetf.attester.tpm_transport import TpmAddress
from securetf.cas.process import _open
from securetf.cas.tpm_machine import HardwareSettings, TeeSealing, TpmMachine
from securetf.claims import Platform
from securetf.cli import command
from securetf.errors import CasStateError, EnvironmentUnfitError, SecuretfError
from securetf.evidence.tpm2_quote import SHA256
from support import gramine
from support.configfs import FakeKernel
from support.sev_guest import Guest
from support.swtpm import SoftwareTpm, make_tpm

from .conftest import MAIN
from .test_hardware_cas import OnTpm

pytestmark = pytest.mark.skipif(
    shutil.which("swtpm_setup") is None, reason="no swtpm: apt-get install swtpm swtpm-tools"
)


class OnSgx(OnTpm):
    """`securetf cas start --attester sgx`; the TPM counts and attests nothing."""

    root_key: str | None = None

    def command(self, listen: str = "127.0.0.1:0") -> list[str]:
        root_key = [] if self.root_key is None else ["--root-key", self.root_key]
        return [
            *MAIN, "cas", "start", "--data", str(self.directory / "data"), "--listen", listen,
            "--attester", "sgx", "--gramine-path", str(self.directory / "gramine"), "--tpm", self.address,
            "--endorsements", str(self.directory / "cache"), "--offline", *root_key, *self.more,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def manufactured(tmp_path_factory: pytest.TempPathFactory) -> SoftwareTpm:
    return make_tpm(tmp_path_factory.mktemp("tpm"))


@pytest.fixture
def tpm(tmp_path: Path, manufactured: SoftwareTpm) -> SoftwareTpm:
    return SoftwareTpm(shutil.copytree(manufactured.directory, tmp_path / "tpm"))


@pytest.fixture
def on_sgx(tmp_path: Path, tpm: SoftwareTpm) -> Iterator[OnSgx]:
    gramine.enclave(tmp_path / "gramine")
    made = OnSgx(tmp_path, tpm)
    made.power_on()
    yield made
    if made.process is not None:
        made.stop()
    made.power_off()


def test_cas_when_in_an_enclave_then_the_same_one_after_a_restart_of_the_machine(on_sgx: OnSgx) -> None:
    on_sgx.start()
    assert on_sgx.ready["simulated"] is False
    before = on_sgx.ready["spki_sha256"]
    assert on_sgx.stop() == 0
    on_sgx.power_off()
    on_sgx.power_on()
    with TpmClient(TpmAddress.parse(on_sgx.address).open()) as client:
        client.extend_pcr(9, SHA256, b"\1" * 32)  # the TPM keeps nothing: its PCRs do not count
    on_sgx.start()
    assert on_sgx.ready["spki_sha256"] == before
    names = {path.name for path in (on_sgx.directory / "data").iterdir()}
    assert {"root-key.sgx", "anchor.tpm"} <= names
    assert not {"root-key.tpm", "attestation-key.tpm"} & names


def test_cas_when_its_enclave_is_another_then_the_root_key_stays_closed_and_a_new_one_is_not_made(
    on_sgx: OnSgx,
) -> None:
    on_sgx.start()
    assert on_sgx.stop() == 0
    sealed = (on_sgx.directory / "data" / "root-key.sgx").read_bytes()
    gramine.enclave(on_sgx.directory / "gramine", mr_enclave=b"\x09" * 32)
    refused = on_sgx.refused()
    assert "the root key is not to be had: the secret is sealed to something else" in refused
    assert f"mr_enclave was {'01' * 32}, is {'09' * 32}" in refused
    assert "set up a new CAS" in refused
    assert (on_sgx.directory / "data" / "root-key.sgx").read_bytes() == sealed
    gramine.enclave(on_sgx.directory / "gramine")
    on_sgx.start()


def test_cas_when_started_with_another_seal_than_its_first_then_refused_with_the_one_that_fits(
    on_sgx: OnSgx,
) -> None:
    on_sgx.start()
    assert on_sgx.stop() == 0
    on_sgx.root_key = "sgx:mrsigner"
    assert "and this start asks for config_svn, cpu_svn, isv_prod_id, isv_svn, mr_signer" in on_sgx.refused()
    on_sgx.root_key, on_sgx.more = "tpm", ["--attester", "tpm2"]
    refused = on_sgx.refused()
    assert "the root key of this CAS is in root-key.sgx, and this start asks for root-key.tpm" in refused
    assert "start it with `--root-key sgx`" in refused


def test_cas_when_its_database_and_anchor_are_put_back_then_the_tpm_tells_although_it_keeps_no_key(
    on_sgx: OnSgx, tmp_path: Path
) -> None:
    on_sgx.start()
    assert on_sgx.stop() == 0
    shutil.copytree(on_sgx.directory / "data", tmp_path / "copy")
    on_sgx.start()
    on_sgx.stop()
    shutil.rmtree(on_sgx.directory / "data")
    shutil.copytree(tmp_path / "copy", on_sgx.directory / "data")
    assert "an older file was put back" in on_sgx.refused()


def test_cas_when_nothing_counts_then_refused_although_the_tee_keeps_the_key(on_sgx: OnSgx) -> None:
    on_sgx.address = "unix:/nonsuch"
    refused = on_sgx.refused()
    assert "nothing counts the states of this CAS" in refused
    assert "name a TPM with `--tpm`" in refused


class TestSevSnp:
    """What `securetf cas start --attester sev_snp` opens."""

    @pytest.fixture
    def settings(self, tmp_path: Path, tpm: SoftwareTpm) -> Iterator[HardwareSettings]:
        (tmp_path / "tsm").mkdir()
        (tmp_path / "sev-guest").touch()
        with tpm.running() as address:
            devices = Devices(
                tsm=tmp_path / "tsm", sev_guest=tmp_path / "sev-guest", tpm=TpmAddress.parse(address)
            )
            yield HardwareSettings(
                names=("sev_snp",), devices=devices, tee_sealing=TeeSealing(platform=Platform.SEV_SNP)
            )

    def started(
        self, settings: HardwareSettings, data: Path, monkeypatch: pytest.MonkeyPatch, guest: Guest
    ) -> bytes:
        """Start in this guest; return what was sealed."""
        FakeKernel(settings.devices.tsm, "sev_guest", guest.report).install(monkeypatch)
        guest.install(monkeypatch)
        data.mkdir(exist_ok=True)
        machine = TpmMachine(settings, data)
        try:
            _open(data, machine).close()
            assert machine.own_tpm is None
        finally:
            machine.close()
        return (data / "root-key.sev_snp").read_bytes()

    def test_state_when_opened_by_the_same_guest_then_whole_and_by_another_image_refused(
        self, settings: HardwareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = tmp_path / "data"
        first = self.started(settings, data, monkeypatch, Guest())
        assert self.started(settings, data, monkeypatch, Guest()) == first
        for changes, reason in (
            ({"measurement": b"\x09" * 48}, "measurement was"),
            ({"secret": b"another chip"}, "sealed on another machine"),
        ):
            with pytest.raises(CasStateError, match=f"the root key is not to be had: .*{reason}"):
                self.started(settings, data, monkeypatch, Guest().but(**changes))
        assert self.started(settings, data, monkeypatch, Guest()) == first

    def test_state_when_its_root_key_file_is_gone_then_not_made_anew(
        self, settings: HardwareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = tmp_path / "data"
        self.started(settings, data, monkeypatch, Guest())
        (data / "root-key.sev_snp").unlink()
        with pytest.raises(CasStateError, match=r"root-key\.sev_snp cannot be read: No such file"):
            self.started(settings, data, monkeypatch, Guest())

    def test_start_when_the_root_key_was_swapped_with_that_of_another_cas_then_refused(
        self, settings: HardwareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same guest sealed both: what tells them apart is the state that each opens."""
        data = tmp_path / "data"
        self.started(settings, data, monkeypatch, Guest())
        stranger = TpmMachine(settings, tmp_path)
        stranger.root_key(create=True)
        stranger.close()
        (tmp_path / "root-key.sev_snp").replace(data / "root-key.sev_snp")
        with pytest.raises(
            SecuretfError, match=r"under another root key|has no state for|belongs to another"
        ):
            self.started(settings, data, monkeypatch, Guest())


def test_machine_when_its_tee_derives_keys_and_there_is_no_tpm_then_says_that_nothing_counts(
    tmp_path: Path,
) -> None:
    settings = HardwareSettings(
        names=("sev_snp",),
        devices=Devices(tpm=TpmAddress(path=tmp_path / "tpmrm0")),
        tee_sealing=TeeSealing(platform=Platform.SEV_SNP),
    )
    with pytest.raises(EnvironmentUnfitError, match="nothing counts the states of this CAS"):
        TpmMachine(settings, tmp_path)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--attester", "tdx", "--root-key", "tdx"), "`--root-key tdx` is not in this release"),
        (("--attester", "sgx", "--root-key", "sev_snp"), "`--root-key sev_snp` on a CAS that attests by sgx"),
        (("--attester", "sgx", "--root-key", "tpm:0"), "a CAS on sgx has nothing that keeps its root key"),
        (("--root-key", "sgx"), "`--anchor` and `--root-key` need `--attester`"),
    ],
)
def test_options_when_the_seal_is_not_of_the_machine_then_refused(
    tmp_path: Path, more: tuple[str, ...], reason: str
) -> None:
    simulated = ["--insecure-simulation", str(tmp_path), "--insecure-anchor", str(tmp_path / "anchor")]
    start = ["cas", "start", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
    given = [*start, *more, *(simulated if "--attester" not in more else [])]
    result = CliRunner(catch_exceptions=True).invoke(command, given)
    assert isinstance(result.exception, SecuretfError), result.output
    assert reason in result.exception.problem
