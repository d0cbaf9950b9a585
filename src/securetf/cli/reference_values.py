"""`securetf reference-values`: a table for the Manifest out of Evidence that was verified."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from securetf.appraisal import appraise
from securetf.appraisal.reference_values import reference_values
from securetf.cli.evidence_request import request_of, verifying_options
from securetf.cli.evidence_verify import judge
from securetf.errors import UsageError
from securetf.manifest.convert import struct
from securetf.manifest.types import POLICIES


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Print what a Manifest must name so that a verified machine is accepted."""


@command.command("from")
@verifying_options
@click.option("--any-machine", is_flag=True, help="Leave `platform_ids` out: any genuine machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def from_(file: Path, any_machine: bool, as_json: bool, **options: Any) -> None:
    """Verify the Evidence in FILE, and print the table [appraisal.PLATFORM] that accepts what it shows.

    Nothing is printed unless everything holds that `securetf evidence verify` checks. Whoever puts the table
    into a Manifest says that this software and firmware are good: genuine is not good. Statuses and
    advisories that the machine has are named under `tolerate`, each to be weighed.
    """
    verdict = judge(
        request_of(file, {**options, "policy": None, "rtmr3": None, "insecure_no_revocation": False})
    )
    if verdict.error is not None:
        raise verdict.error
    claims = verdict.claims
    if claims is None:
        raise UsageError("the Evidence was not verified", "`securetf evidence verify` names the check")
    table, name = reference_values(claims, any_machine=any_machine), claims.platform.value
    # Held against what it came from: a table that did not accept this would be of no use.
    policy: Any = struct(table, POLICIES[name], ("appraisal", name))
    appraise(claims, policy=policy, rtmr3=claims.registers.get("rtmr3", b""), now=verdict.now)
    if as_json:
        click.echo(json.dumps({"appraisal": {name: table}}))
        return
    if claims.simulated:
        click.echo("# INSECURE SIMULATION: proves nothing about any machine")
    click.echo(f"# from Evidence verified at {verdict.now:%F %T} UTC; review before use")
    click.echo("\n".join(_toml(("appraisal", name), table)))


def _toml(path: tuple[str, ...], table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: strings, numbers, lists of strings, and tables below it, last."""
    values = {name: value for name, value in table.items() if not isinstance(value, Mapping)}
    if values:
        yield f"[{'.'.join(path)}]"
    for name, value in values.items():
        yield f"{name} = {json.dumps(value)}"  # JSON's strings, numbers and lists are TOML's, too
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _toml((*path, name), value)
