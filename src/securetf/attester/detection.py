"""Finds out which platform this machine is, by its devices alone. It looks, and never guesses."""

from dataclasses import dataclass, field
from pathlib import Path

from securetf.attester import configfs_tsm
from securetf.attester.tpm_transport import DEVICE as TPM_DEVICE
from securetf.attester.tpm_transport import TpmAddress
from securetf.claims import Platform
from securetf.errors import AttesterError

GRAMINE = Path("/dev/attestation")
NSM = Path("/dev/nsm")
SEV_GUEST = Path("/dev/sev-guest")
TDX_MEASUREMENTS = Path("/sys/devices/virtual/misc/tdx_guest/measurements")
IMDS = "http://169.254.169.254"  # link-local: every Azure machine has its own there
EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
TSM_PROVIDERS = {"tdx_guest": Platform.TDX, "sev_guest": Platform.SEV_SNP}
_FIX = "name the platform with `--attester`, and its device if it is elsewhere (`securetf run --help`)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Where the interfaces of the platforms are on this machine.

    tsm: directory of configfs-tsm. tdx_measurements: the kernel's directory of TDX registers. gramine:
    directory of Gramine's pseudo-files. nsm: device of the Nitro Security Module. sev_guest: device that
    derives keys for an SEV-SNP guest. tpm: address of a TPM.
    tpm_key: file of the enrolled attestation key (`securetf tpm enrol`). event_log: the firmware's
    measurements of this boot; None: the kernel's, of a device's TPM. imds: metadata service of an Azure
    machine.
    """

    tsm: Path = configfs_tsm.ROOT
    tdx_measurements: Path = TDX_MEASUREMENTS
    gramine: Path = GRAMINE
    nsm: Path = NSM
    sev_guest: Path = SEV_GUEST
    tpm: TpmAddress = field(default_factory=lambda: TpmAddress(path=TPM_DEVICE))
    tpm_key: Path | None = None
    event_log: Path | None = None
    imds: str = IMDS


def detect(devices: Devices | None = None) -> Platform:
    """Return the one platform of this machine.

    A TPM counts only where no TEE is found: a confidential machine often has one beside its TEE. Azure's is
    told by the report that it holds about the machine's TEE; a TPM that cannot be asked for it is no answer.

    Raises:
        AttesterError: none is found, or several TEEs; the message says what was looked for and seen.
    """
    devices = devices or Devices()
    looks = [_tsm(devices.tsm), _gramine(devices.gramine), _nsm(devices.nsm)]
    if not any(there for there, _, _ in looks):
        looks.append(_tpm(devices.tpm))
    found = [platform for there, _, platform in looks if there]
    if len(found) == 1 and found[0] is not None:
        return found[0]
    seen = "; ".join(text for _, text, _ in looks)
    raise AttesterError(f"this machine's platform is not clear: {seen}", _FIX)


# Each look: whether something is there, in words, and its platform; None where it cannot be told.
_Look = tuple[bool, str, Platform | None]


def _tsm(root: Path) -> _Look:
    if not root.is_dir():
        return False, f"{root}: absent", None
    try:
        name = configfs_tsm.provider(root)
    except AttesterError as error:
        return True, f"{root}: {error.problem}", None
    platform = TSM_PROVIDERS.get(name)
    return True, f"{root}: provider {name!r}{'' if platform else ', which is unknown'}", platform


def _gramine(root: Path) -> _Look:
    there = (root / "attestation_type").exists()
    return there, f"{root}: {'Gramine' if there else 'absent'}", Platform.SGX


def _nsm(path: Path) -> _Look:
    there = path.exists()
    return there, f"{path}: {'a Nitro Security Module' if there else 'absent'}", Platform.NITRO


def _tpm(address: TpmAddress) -> _Look:
    if not address.exists():
        return False, f"{address}: absent", None
    # Only where nothing else was found: a launcher starts often.
    from securetf.attester.azure import HCL_REPORT  # noqa: PLC0415
    from securetf.attester.tpm_client import TpmClient  # noqa: PLC0415
    from securetf.attester.tpm_counter import read_attributes  # noqa: PLC0415

    try:
        with TpmClient(address.open()) as client:
            confidential = read_attributes(client, HCL_REPORT) is not None
    except AttesterError as error:
        return True, f"{address}: {error.problem}", None
    if confidential:
        return True, f"{address}: the vTPM of an Azure confidential VM", Platform.AZURE_VTPM
    return True, f"{address}: a TPM", Platform.TPM2
