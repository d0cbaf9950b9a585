"""The options by which commands find this machine's TEE or TPM: the same for all of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from securetf.attester import Attester, Devices

_PATH = click.Path(path_type=Path)
_F = TypeVar("_F", bound=Callable[..., Any])
NAMES = ("auto", "tdx", "sev_snp", "sgx", "nitro", "tpm2", "gce_tpm", "azure_vtpm")
TPM_ADDRESS = "/dev/tpmrm0, or of a software TPM unix:/path/of/socket or tcp:HOST:PORT."
_DEVICES = (
    click.option("--tsm-path", type=_PATH, metavar="DIR", help="Directory of configfs-tsm (TDX, SEV-SNP)."),
    click.option("--tdx-measurements", type=_PATH, metavar="DIR", help="Kernel's TDX registers."),
    click.option("--gramine-path", type=_PATH, metavar="DIR", help="Gramine's pseudo-files (SGX)."),
    click.option("--nsm-device", type=_PATH, metavar="FILE", help="Nitro Security Module."),
    click.option("--tpm", metavar="ADDRESS", help=f"TPM: {TPM_ADDRESS}"),
    click.option("--tpm-key", type=_PATH, metavar="FILE", help="Key file of `securetf tpm enrol`."),
    click.option("--tpm-event-log", type=_PATH, metavar="FILE", help="Firmware's measurements of this boot."),
    click.option("--imds", metavar="URL", help="Metadata service of an Azure machine. Default: the usual."),
)
_FIELDS = {  # option to field of `Devices`
    "tsm_path": "tsm",
    "tdx_measurements": "tdx_measurements",
    "gramine_path": "gramine",
    "nsm_device": "nsm",
    "tpm_key": "tpm_key",
    "tpm_event_log": "event_log",
    "imds": "imds",
}


def attester_options(function: _F) -> _F:
    """Add `--attester` and the options of its devices; the command takes them as keywords."""
    attester = click.option(
        "--attester",
        multiple=True,
        type=click.Choice(NAMES),
        help="Platform of this machine; repeat for a TEE and its TPM. Default: the one that is found.",
    )
    return attester(device_options(function))


def device_options(function: _F) -> _F:
    """Add the options of devices alone."""
    for option in reversed(_DEVICES):
        function = option(function)
    return function


def devices(given: dict[str, Any]) -> "Devices":
    """Return where the devices are, from a command's keywords; others among them are left alone."""
    from securetf.attester import Devices  # noqa: PLC0415  (when it is used)
    from securetf.attester.tpm_transport import TpmAddress  # noqa: PLC0415

    values: dict[str, Any] = {
        field: given[option] for option, field in _FIELDS.items() if given.get(option) is not None
    }
    if given.get("tpm") is not None:
        values["tpm"] = TpmAddress.parse(given["tpm"])
    return Devices(**values)


def attester(
    given: dict[str, Any], simulation: "Attester | None", code_roots: Mapping[str, bytes]
) -> "Attester":
    """Return the attester that the options name.

    simulation: stands in the place of the machine's TEE. code_roots: as for `hardware.make`.

    Raises:
        AttesterError: the platform is not clear, or cannot be used. UsageError: names that do not go
        together.
    """
    from securetf.attester import hardware  # noqa: PLC0415

    named = given["attester"]
    if simulation is None:
        return hardware.make(named or (hardware.AUTO,), devices(given), code_roots)
    if not named:
        return simulation
    from securetf.attester.composite import CompositeAttester  # noqa: PLC0415

    return CompositeAttester(simulation, [hardware.make((one,), devices(given), {}) for one in named])


def arguments(given: dict[str, Any]) -> list[str]:
    """Return the options as they were given, for another command line."""
    words = [word for one in given["attester"] for word in ("--attester", one)]
    for name in (*_FIELDS, "tpm"):
        if given[name] is not None:
            words += [f"--{name.replace('_', '-')}", str(given[name])]
    return words
