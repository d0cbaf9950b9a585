"""Options of whoever verifies hardware, and of a CAS that runs on it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from securetf.cli import attester_options
from securetf.errors import UsageError

if TYPE_CHECKING:
    from securetf.cas.tpm_machine import HardwareSettings
    from securetf.endorsements.sources import Sources

_PATH = click.Path(path_type=Path)
_F = TypeVar("_F", bound=Callable[..., Any])
MINIMUM_TCB_EVALUATION = 18  # as in cas.hardware_verifiers, which takes long to import
_OPTIONS = (
    click.option(
        "--endorsements",
        type=_PATH,
        metavar="DIR",
        help="Verify hardware, with the cache of `securetf endorsements` in this directory.",
    ),
    click.option("--offline", is_flag=True, help="Use the cache alone; fetch nothing."),
    click.option("--pccs", metavar="URL", help="Address of a PCCS, in place of Intel's service."),
    click.option("--kds", metavar="URL", help="Address of AMD's KDS, or of a copy of it."),
    click.option(
        "--tpm-roots",
        type=_PATH,
        metavar="FILE",
        help="PEM: roots of the manufacturers of trusted TPMs, and issuers below.",
    ),
    click.option(
        "--minimum-tcb-evaluation",
        type=click.IntRange(0, 2**31),
        default=MINIMUM_TCB_EVALUATION,
        show_default=True,
        help="Lowest tcbEvaluationDataNumber of Intel's collateral that counts.",
    ),
)


def verifying_options(function: _F) -> _F:
    """Add the options; the command takes them as keywords."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def sources(given: dict[str, Any]) -> "Sources | None":
    """Return the services to ask; None with `--offline`."""
    if given["offline"]:
        return None
    from securetf.endorsements.sources import Sources  # noqa: PLC0415

    values: dict[str, Any] = {}
    if given["pccs"] is not None:
        values |= {"intel": given["pccs"], "intel_root_crl": None}
    if given["kds"] is not None:
        values["amd"] = given["kds"]
    return Sources(**values)


def machine(given: dict[str, Any], insecure_anchor: Path | None) -> "HardwareSettings | None":
    """Return what the CAS runs on; None without `--attester`: then it is a simulation.

    Raises:
        UsageError: options that do not go together.
    """
    names, anchor, root_key = given["attester"], given["anchor"], given["root_key"]
    if not names:
        if anchor is not None or root_key is not None:
            raise UsageError("`--anchor` and `--root-key` need `--attester`", "name the platform of the CAS")
        return None
    if insecure_anchor is not None:
        raise UsageError("`--insecure-anchor` beside `--attester`", "leave it out: the TPM counts")
    from securetf.cas.tpm_machine import HardwareSettings  # noqa: PLC0415

    devices = attester_options.devices(given)
    if given["sev_guest"] is not None:
        devices = replace(devices, sev_guest=given["sev_guest"])
    if names == ("auto",):
        from securetf.attester import detect  # noqa: PLC0415

        names = (detect(devices).value,)
    values: dict[str, Any] = {"names": names, "devices": devices}
    kind, index = _split(anchor, "tpm")
    if kind != "tpm":
        raise UsageError(f"`--anchor {kind}` is not in this release", "write `--anchor tpm`")
    if index:
        values["counter_index"] = _number(",".join(index), "--anchor", range(0x01800000, 0x01C10000))
    return HardwareSettings(**values, **_sealing(names, root_key))


def _sealing(names: tuple[str, ...], root_key: str | None) -> dict[str, Any]:
    """Return what seals the root key: the TEE where it derives keys, else the TPM."""
    from securetf.attester.hardware import SEALING  # noqa: PLC0415
    from securetf.cas.tpm_machine import TeeSealing  # noqa: PLC0415

    tees = {one.value: one for one in SEALING}
    own = next((name for name in names if name in tees), "tpm")
    kind, choice = _split(root_key, own)
    if kind == "tpm":
        pcrs = tuple(_number(one, "--root-key", range(24)) for one in choice)
        return {"sealing_pcrs": pcrs} if pcrs else {}
    if kind not in tees:
        raise UsageError(
            f"`--root-key {kind}` is not in this release", f"write tpm or one of {', '.join(tees)}"
        )
    if kind not in names:
        raise UsageError(
            f"`--root-key {kind}` on a CAS that attests by {' and '.join(names)}",
            f"add `--attester {kind}`: clients must see what the key is sealed to",
        )
    return {"tee_sealing": TeeSealing(platform=tees[kind], choice=choice)}


def _split(value: str | None, default: str) -> tuple[str, tuple[str, ...]]:
    kind, _, rest = (value or default).partition(":")
    return kind, tuple(rest.split(",")) if rest else ()


def _number(text: str, option: str, allowed: range) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number not in allowed:
        raise UsageError(
            f"`{option}` has {text[:32]!r}, expected {allowed.start:#x} to {allowed.stop - 1:#x}",
            "correct it",
        )
    return number
