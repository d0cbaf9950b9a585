"""Which platform a machine is: found by its devices, never guessed; and the attester that follows from it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetf.attester import Devices, configfs_tsm, detect, hardware, tpm_counter
from securetf.attester.nitro import NitroAttester
from securetf.attester.sev_snp import SnpAttester
from securetf.attester.sgx import SgxAttester
from securetf.attester.tdx import TdxAttester, measure_code
from securetf.attester.tpm_transport import TpmAddress
from securetf.claims import Platform, code_event, code_register
from securetf.errors import AttesterError, UsageError

ROOTS = {"code": bytes(range(32))}
Machine = Callable[..., Devices]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A directory in the place of /dev and /sys, with the devices that a test names."""

    def make(*present: str, provider: str = "tdx_guest") -> Devices:
        devices = Devices(
            tsm=tmp_path / "tsm",
            tdx_measurements=tmp_path / "measurements",
            gramine=tmp_path / "attestation",
            nsm=tmp_path / "nsm",
            tpm=TpmAddress(path=tmp_path / "tpmrm0"),
        )
        monkeypatch.setattr(configfs_tsm, "provider", lambda _: provider)
        if "tsm" in present:
            devices.tsm.mkdir()
            devices.tdx_measurements.mkdir()
            (devices.tdx_measurements / "rtmr3:sha384").write_bytes(code_register({}))
        if "gramine" in present:
            devices.gramine.mkdir()
            (devices.gramine / "attestation_type").write_text("dcap")
        for name in {"nsm", "tpmrm0"} & set(present):
            (tmp_path / name).touch()
        return devices

    return make


@pytest.mark.parametrize(
    ("present", "provider", "platform", "kind"),
    [
        (("tsm",), "tdx_guest", Platform.TDX, TdxAttester),
        (("tsm",), "sev_guest", Platform.SEV_SNP, SnpAttester),
        (("gramine",), "", Platform.SGX, SgxAttester),
        (("nsm",), "", Platform.NITRO, NitroAttester),
        (("tsm", "tpmrm0"), "sev_guest", Platform.SEV_SNP, SnpAttester),
    ],
)
def test_machine_when_it_has_one_tee_then_that_one_is_found_and_used(
    machine: Machine, present: tuple[str, ...], provider: str, platform: Platform, kind: type[Any]
) -> None:
    devices = machine(*present, provider=provider)
    assert detect(devices) is platform
    assert isinstance(hardware.make((hardware.AUTO,), devices, {}), kind)


def test_machine_when_it_has_a_tpm_alone_then_the_tpm_needs_its_enrolled_key(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = machine("tpmrm0")
    monkeypatch.setattr(tpm_counter, "read_attributes", lambda *_: None)  # no report of Azure's
    assert detect(devices) is Platform.TPM2
    with pytest.raises(UsageError, match="attestation key is missing"):
        hardware.make((hardware.AUTO,), devices, {})
    with pytest.raises(AttesterError, match="cannot be read: No such file"):
        hardware.make(("tpm2",), Devices(tpm=devices.tpm, tpm_key=tmp_path / "none"), {})


@pytest.mark.parametrize(
    ("present", "provider", "reason"),
    [
        ((), "", r"tsm: absent; .*attestation: absent; .*nsm: absent; .*tpmrm0: absent"),
        (("tsm", "nsm"), "sev_guest", "provider 'sev_guest'.*a Nitro Security Module"),
        (("tsm", "tpmrm0"), "arm_cca", "provider 'arm_cca', which is unknown"),
        (("tpmrm0",), "", "tpmrm0: the TPM's response to NV_ReadPublic cannot be read"),
    ],
    ids=["nothing", "two TEEs", "unknown TEE beside a TPM", "TPM that does not say whose it is"],
)
def test_machine_when_its_platform_is_not_clear_then_refused_with_what_was_seen(
    machine: Machine, present: tuple[str, ...], provider: str, reason: str
) -> None:
    with pytest.raises(AttesterError, match=reason):
        detect(machine(*present, provider=provider))


def test_kernel_when_it_gives_no_provider_then_a_tpm_is_not_taken_in_its_place(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = machine("tsm", "tpmrm0")

    def refuse(_: Path) -> str:
        raise AttesterError("gives no reports: Permission denied", "be root")

    monkeypatch.setattr(configfs_tsm, "provider", refuse)
    with pytest.raises(AttesterError, match="Permission denied"):
        detect(devices)


def test_attesters_when_named_wrongly_then_refused(machine: Machine) -> None:
    devices = machine("nsm")
    with pytest.raises(UsageError, match="no attester 'sev'"):
        hardware.make(("sev",), devices, {})
    with pytest.raises(UsageError, match="no attester 'auto'"):
        hardware.make(("nitro", "auto"), devices, {})
    with pytest.raises(UsageError, match="composite Evidence of nitro, nitro"):
        hardware.make(("nitro", "nitro"), devices, {})


class Register:
    """RTMR 3 as the kernel has it: what is written extends it. Here the file is replaced by its new value."""

    def __init__(self, directory: Path, value: bytes) -> None:
        self.directory, self.path = directory, directory / "rtmr3:sha384"
        directory.mkdir()
        self.path.write_bytes(value)

    def written(self) -> bytes:
        return self.path.read_bytes()


def test_code_when_measured_into_a_fresh_register_then_its_event_is_written(tmp_path: Path) -> None:
    register = Register(tmp_path / "tdx", bytes(48))
    with pytest.raises(AttesterError, match="not this workload's code"):
        measure_code(ROOTS, register.directory)  # a plain file keeps the event; the kernel would extend
    assert register.written() == code_event(ROOTS)


def test_code_when_measured_before_then_not_again_and_other_code_is_refused(tmp_path: Path) -> None:
    register = Register(tmp_path / "tdx", code_register(ROOTS))
    measure_code(ROOTS, register.directory)
    assert register.written() == code_register(ROOTS)
    with pytest.raises(AttesterError, match="not this workload's code"):
        measure_code({}, register.directory)
    with pytest.raises(AttesterError, match="cannot be extended: No such file"):
        measure_code(ROOTS, tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("/dev/tpm0", "/dev/tpm0"), ("unix:/run/t", "unix:/run/t"), ("tcp:[::1]:2321", "tcp:::1:2321")],
)
def test_address_when_of_a_tpm_then_read(text: str, shown: str) -> None:
    assert str(TpmAddress.parse(text)) == shown


@pytest.mark.parametrize("text", ["", "tpm0", "unix:run", "tcp:host", "tcp::1", "tcp:h:0", "tcp:h:65536"])
def test_address_when_not_of_a_tpm_then_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a TPM"):
        TpmAddress.parse(text)
