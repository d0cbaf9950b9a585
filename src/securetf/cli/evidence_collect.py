"""`securetf evidence collect`: asks this machine's TEE or TPM for Evidence, and writes it to a file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from securetf.claims import REPORT_DATA_SIZE, Platform
from securetf.cli import attester_options
from securetf.errors import UsageError

if TYPE_CHECKING:
    from securetf.attester import Attester

_PATH = click.Path(path_type=Path)


@click.command()
@click.option(
    "--nonce", "--report-data", "nonce", required=True, help="What it must answer to, up to 64 bytes in hex."
)
@click.option("--out", type=_PATH, required=True, help="File to write; it must not exist.")
@click.option(
    "--insecure-simulation",
    "simulation",
    type=_PATH,
    metavar="DIR",
    help="Use a simulated platform: it proves nothing about any machine.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@attester_options.attester_options
def collect(nonce: str, out: Path, simulation: Path | None, as_json: bool, **options: Any) -> None:
    """Make Evidence on this machine that answers to a nonce, and write it to a file, raw.

    The nonce comes from whoever will verify it, who never gives it twice. It is filled with zeros to 64
    bytes, the report data; `securetf evidence verify --report-data` takes what is printed. Nothing is
    measured or changed on the machine.
    """
    report_data = _report_data(nonce)
    evidence = _attester(options, simulation).attest(report_data)
    try:
        with out.open("xb") as stream:
            stream.write(evidence.raw)
    except OSError as error:
        raise UsageError(
            f"cannot write {out}: {error.strerror}", "name a file that does not exist yet"
        ) from None
    facts = {"platform": evidence.platform.value, "file": str(out), "report_data": report_data.hex()}
    if as_json:
        click.echo(json.dumps(facts))
        return
    if evidence.platform is Platform.INSECURE_SIMULATION:
        click.echo("INSECURE SIMULATION: proves nothing about any machine", err=True)
    for name, value in facts.items():
        click.echo(f"{name + ':':<13} {value}")


def _report_data(nonce: str) -> bytes:
    try:
        found = bytes.fromhex(nonce)
    except ValueError:
        raise UsageError("--nonce is not hexadecimal", "write bytes as pairs of hex digits") from None
    if not 0 < len(found) <= REPORT_DATA_SIZE or not any(found):
        raise UsageError(
            f"--nonce has {len(found)} bytes, expected 1 to {REPORT_DATA_SIZE}, not all zero",
            "take the one that the verifier gave; an empty one is never fresh",
        )
    return found.ljust(REPORT_DATA_SIZE, b"\0")


def _attester(options: dict[str, Any], simulation: Path | None) -> "Attester":
    from securetf.attester import detect  # noqa: PLC0415  (when it is used)

    named = [name for name in options["attester"] if name != "auto"]
    if len(named) > 1 or (named and simulation is not None):
        raise UsageError("Evidence of one attester at a time is written", "collect each by itself")
    if simulation is not None:
        from securetf.attester.insecure_simulation import SimulatedTdx  # noqa: PLC0415  (never for hardware)

        return SimulatedTdx(simulation, {})
    devices = attester_options.devices(options)
    name = named[0] if named else detect(devices).value
    if name == Platform.TDX:
        from securetf.attester.tdx import TdxAttester  # noqa: PLC0415

        return TdxAttester(devices.tsm)  # the launcher's attester would extend RTMR 3
    return attester_options.attester({**options, "attester": (name,)}, None, {})
