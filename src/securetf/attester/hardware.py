"""The attester of each platform by name, made only when it is used."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from securetf.attester import Attester, Devices, detect
from securetf.attester.detection import EVENT_LOG
from securetf.claims import Evidence, Platform
from securetf.errors import AttesterError, UsageError
from securetf.evidence.tpm2 import EVENT_LOG_SIZE_LIMIT

if TYPE_CHECKING:
    from securetf.attester.sealing import TeeKey

AUTO = "auto"
CERTIFIED_TPM = "gce_tpm"  # a TPM whose key Google Cloud certified: TPM 2.0 Evidence
NAMES = (
    AUTO, Platform.TDX.value, Platform.SEV_SNP.value, Platform.SGX.value, Platform.NITRO.value,
    Platform.TPM2.value, CERTIFIED_TPM, Platform.AZURE_VTPM.value,
)  # fmt: skip
SEALING = (Platform.SGX, Platform.SEV_SNP)  # platforms that derive keys for what runs on them
KEY_FILE_SIZE_LIMIT = 8192  # bytes


def make(names: Sequence[str], devices: Devices, code_roots: Mapping[str, bytes]) -> Attester:
    """Return the attester of this machine; composite when several are named, the TEE first.

    names: of `NAMES`; `auto` alone. code_roots: of the workload's pinned volumes; TDX measures them, and
    on the others the Manifest hash in the report data stands for them.

    Raises:
        AttesterError: the platform is not clear, or cannot be used. UsageError: a name is unknown, doubled,
        or `auto` beside others.
    """
    if list(names) == [AUTO]:
        names = [detect(devices).value]
    attesters = [_make(name, devices, code_roots) for name in names]
    if len(attesters) == 1:
        return attesters[0]
    from securetf.attester.composite import CompositeAttester  # noqa: PLC0415  (only for several)

    return CompositeAttester(attesters[0], attesters[1:])


def _make(name: str, devices: Devices, code_roots: Mapping[str, bytes]) -> Attester:
    # Each platform's file is imported only on that platform: a launcher starts often.
    if name == Platform.TDX:
        from securetf.attester.tdx import TdxAttester, measure_code  # noqa: PLC0415

        measure_code(code_roots, devices.tdx_measurements)
        return TdxAttester(devices.tsm)
    if name == Platform.SEV_SNP:
        from securetf.attester.sev_snp import SnpAttester  # noqa: PLC0415

        return SnpAttester(devices.tsm)
    if name == Platform.SGX:
        from securetf.attester.sgx import SgxAttester  # noqa: PLC0415

        return SgxAttester(devices.gramine)
    if name == Platform.NITRO:
        from securetf.attester.nitro import NitroAttester, device  # noqa: PLC0415

        return NitroAttester(device(devices.nsm))
    if name == Platform.AZURE_VTPM:
        return AzureMachine(devices)
    if name in {Platform.TPM2, CERTIFIED_TPM}:
        return TpmMachine(devices, certified=name == CERTIFIED_TPM)
    raise UsageError(f"there is no attester {name[:64]!r}", f"name one of {', '.join(NAMES)}")


def sealing_key(platform: Platform, devices: Devices, choice: Sequence[str]) -> "TeeKey":
    """Return the key that this machine's TEE derives for what runs in it.

    platform: of `SEALING`. choice: on SGX, `mrenclave` or `mrsigner`, the first if there is none; on SEV-SNP,
    what the key depends on besides policy, measurement and firmware.

    Raises:
        UsageError: there is no such choice.
    """
    from securetf.attester import sev_snp_sealing, sgx_sealing  # noqa: PLC0415  (only on these platforms)
    from securetf.attester.sev_snp import SnpAttester  # noqa: PLC0415

    if platform is Platform.SGX:
        identities = (sgx_sealing.MRENCLAVE, sgx_sealing.MRSIGNER)
        if len(choice) > 1 or not {*choice} <= {*identities}:
            raise UsageError(
                f"an SGX sealing key is not of {', '.join(choice)[:64]!r}", "choose mrenclave or mrsigner"
            )
        return sgx_sealing.SgxSealingKey(devices.gramine, *choice)
    allowed = sorted(sev_snp_sealing.CHOOSABLE)
    if len({*choice}) != len(choice) or not {*choice} <= {*allowed}:
        raise UsageError(
            f"an SEV-SNP derived key has no fields {', '.join(choice)[:64]!r}, or has one twice",
            f"choose of {', '.join(allowed)}; policy, measurement and TCB version are always in it",
        )
    exchange = sev_snp_sealing.device(devices.sev_guest)
    return sev_snp_sealing.SnpSealingKey(SnpAttester(devices.tsm), exchange, tuple(choice))


class TpmMachine:
    """This machine's TPM. It is opened for each quote, so that others may use it in between."""

    platform = Platform.TPM2

    def __init__(self, devices: Devices, *, certified: bool) -> None:
        """certified: use the key that the cloud's operator certified, else the one that was enrolled.

        Raises:
            AttesterError: the key's file or the event log cannot be read. UsageError: no key's file is given.
        """
        self._address, self._certified, self._key = devices.tpm, certified, b""
        if not certified:
            if devices.tpm_key is None:
                raise UsageError(
                    "the file of the TPM's attestation key is missing",
                    "give `--tpm-key FILE`, made by `securetf tpm enrol`",
                )
            self._key = read_file(devices.tpm_key, KEY_FILE_SIZE_LIMIT)
        self._event_log = read_event_log(devices)

    def attest(self, report_data: bytes) -> Evidence:
        """As `Attester.attest`."""
        from securetf.attester.tpm2 import CertifiedTpm2Attester, Tpm2Attester  # noqa: PLC0415
        from securetf.attester.tpm_client import TpmClient  # noqa: PLC0415

        with TpmClient(self._address.open()) as client:
            if self._certified:
                return CertifiedTpm2Attester(client, event_log=self._event_log).attest(report_data)
            return Tpm2Attester(client, event_log=self._event_log, stored=self._key).attest(report_data)


class AzureMachine:
    """This Azure confidential VM. Its vTPM is opened for each quote."""

    platform = Platform.AZURE_VTPM

    def __init__(self, devices: Devices) -> None:
        """devices: the vTPM and the metadata service."""
        self._address, self._imds = devices.tpm, devices.imds

    def attest(self, report_data: bytes) -> Evidence:
        """As `Attester.attest`."""
        from securetf.attester.azure import AzureVtpmAttester, Imds  # noqa: PLC0415
        from securetf.attester.tpm_client import TpmClient  # noqa: PLC0415

        with TpmClient(self._address.open()) as client:
            return AzureVtpmAttester(client, Imds(self._imds)).attest(report_data)


def read_event_log(devices: Devices) -> bytes:
    """Return the firmware's event log of this boot; empty where the kernel has none, and of a software TPM.

    Whether it must be there is the verifier's to say.

    Raises:
        AttesterError: it is there, or was named, and cannot be read.
    """
    path = devices.event_log
    if path is None:
        if devices.tpm.path is None or devices.tpm.unix or not EVENT_LOG.exists():
            return b""
        path = EVENT_LOG
    return read_file(path, EVENT_LOG_SIZE_LIMIT)


def read_file(path: Path, limit: int) -> bytes:
    """Return a file's content. Raises AttesterError when it cannot be read or has more than `limit` bytes."""
    try:
        with path.open("rb") as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        raise AttesterError(
            f"{path} cannot be read: {error.strerror}", "run as a user who may read it (securityfs: root)"
        ) from None
    if len(content) > limit:
        raise AttesterError(f"{path} has more than {limit} bytes", "name the right file")
    return content
