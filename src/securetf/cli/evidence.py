"""`securetf evidence show|verify|collect`: what Evidence says, whether it holds, and making it."""

import json
from pathlib import Path
from typing import Any

import click

from securetf.cli.evidence_collect import collect
from securetf.cli.evidence_kinds import facts
from securetf.cli.evidence_request import read, request_of, verifying_options
from securetf.cli.evidence_verify import Verdict, judge
from securetf.endorsements.trust import SIMULATION_MARK

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Show or verify Evidence of any platform, or collect this machine's. Nothing is sent anywhere."""


command.add_command(collect)


@command.command()
@click.argument("file", type=_FILE)
@_JSON
def show(file: Path, as_json: bool) -> None:
    """Print the fields of the quote, report (raw) or RA-TLS certificate (PEM) in FILE; not authenticated."""
    found = facts(read(file))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo("not authenticated: whoever made this file chose every value below")
    if found["simulated"]:
        click.echo(f"{SIMULATION_MARK}: proves nothing about any machine")
    _print(found)


@command.command()
@verifying_options
@click.option("--policy", type=_FILE, help="TOML file with [appraisal.PLATFORM], such as a Manifest.")
@click.option(
    "--rtmr3", help="RTMR 3 of TDX that the policy is to be held against. Without: no code measured."
)
@click.option("--insecure-no-revocation", is_flag=True, help="SEV-SNP: do without AMD's revocation list.")
@_JSON
def verify(file: Path, as_json: bool, **options: Any) -> None:
    """Verify the quote or report in FILE offline; print each check, numbered as in docs/platforms.md.

    Exits with 0 if everything holds, 10 if the Evidence does not, 11 if the policy does not accept it.
    """
    verdict = judge(request_of(file, options))
    if as_json:
        click.echo(json.dumps(verdict.to_builtins()))
    else:
        _print_verdict(verdict)
    if verdict.error is not None:
        raise verdict.error


def _print_verdict(verdict: Verdict) -> None:
    click.echo(f"{verdict.platform.value} Evidence, verified at {verdict.now:%F %T} UTC")
    if verdict.claims is not None and verdict.claims.simulated:
        click.echo(f"{SIMULATION_MARK}: proves nothing about any machine")
    for check in verdict.checks:
        click.echo(f"{check.number:>3}. {check.name:<78} {check.result}")
    if verdict.claims is not None and verdict.error is None:
        _print(verdict.claim_values())


def _print(values: dict[str, Any]) -> None:
    for name, value in values.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{part} {number}" for part, number in value.items())
        click.echo(f"{name + ':':<18} {shown}")
