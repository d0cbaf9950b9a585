"""`securetf evidence show|verify FILE`: what a piece of Evidence says, and whether it holds. Offline."""

import json
from pathlib import Path
from typing import Any

import click

from securetf.cli.endorsements import cached
from securetf.cli.evidence_kinds import SIZE_LIMIT, facts
from securetf.cli.evidence_verify import Request, Verdict, judge
from securetf.cli.moments import moment
from securetf.endorsements.trust import SIMULATION_MARK
from securetf.errors import MalformedEvidenceError, UsageError

_REPORT_DATA_SIZE = 64  # bytes
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Show or verify a piece of Evidence of any platform. Nothing is sent anywhere."""


@command.command()
@click.argument("file", type=_FILE)
@_JSON
def show(file: Path, as_json: bool) -> None:
    """Print the fields of the quote, report (raw) or RA-TLS certificate (PEM) in FILE; not authenticated."""
    found = facts(_read(file))
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo("not authenticated: whoever made this file chose every value below")
    if found["simulated"]:
        click.echo(f"{SIMULATION_MARK}: proves nothing about any machine")
    _print(found)


@command.command()
@click.argument("file", type=_FILE)
@click.option(
    "--report-data",
    "--nonce",
    "report_data",
    required=True,
    help="What the Evidence must answer to, up to 64 bytes in hex; for TDX, SGX, SEV-SNP zero-filled.",
)
@click.option(
    "--endorsements",
    type=_FILE,
    multiple=True,
    help="Collateral (JSON) for TDX and SGX; certificates and revocation list (PEM, DER) for SEV-SNP; "
    "enrolments (JSON), issuers and their revocation lists (PEM, DER) for TPMs.",
)
@click.option(
    "--cache",
    type=_FILE,
    help="Without --endorsements: a cache that `securetf endorsements fetch|import` filled; offline.",
)
@click.option("--policy", type=_FILE, help="TOML file with [appraisal.PLATFORM], such as a Manifest.")
@click.option(
    "--rtmr3", help="RTMR 3 of TDX that the policy is to be held against. Without: no code measured."
)
@click.option("--event-log", type=_FILE, help="Event log of TDX (JSON) that must replay to RTMR 0 to 3.")
@click.option("--at", "moment", help="Time to verify at, ISO 8601 with a zone. Default: now.")
@click.option(
    "--minimum-tcb-evaluation", default=0, help="Lowest tcbEvaluationDataNumber of TDX and SGX that counts."
)
@click.option(
    "--root",
    "roots",
    type=_FILE,
    multiple=True,
    help="PEM file of roots that count for Nitro and TPMs, beside the built-in ones of AWS and Google.",
)
@click.option("--insecure-simulation-root", type=_FILE, help="root.pem of a simulated platform to trust.")
@click.option("--insecure-no-revocation", is_flag=True, help="SEV-SNP: do without AMD's revocation list.")
@_JSON
def verify(file: Path, as_json: bool, **options: Any) -> None:
    """Verify the quote or report in FILE offline; print each check, numbered as in docs/platforms.md.

    Exits with 0 if everything holds, 10 if the Evidence does not, 11 if the policy does not accept it.
    """
    nonce = _hex("--report-data", options["report_data"])
    raw, now = _read(file), moment(options["moment"])
    endorsements = [_read_any(one) for one in options["endorsements"]]
    request = Request(
        raw=raw,
        report_data=nonce.ljust(_REPORT_DATA_SIZE, b"\0"),
        nonce=nonce,
        roots=[_read_any(one) for one in options["roots"]],
        endorsements=endorsements or cached(options["cache"], raw, now),
        policy=_optional(options["policy"]),
        rtmr3=None if options["rtmr3"] is None else _hex("--rtmr3", options["rtmr3"], 48),
        event_log=_optional(options["event_log"]),
        now=now,
        minimum_tcb_evaluation=options["minimum_tcb_evaluation"],
        simulation_root=_optional(options["insecure_simulation_root"]),
        no_revocation=options["insecure_no_revocation"],
    )
    verdict = judge(request)
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


def _hex(option: str, text: str, size: int | None = None) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{option} is not hexadecimal", "write bytes as pairs of hex digits") from None
    if (size is None and not 0 < len(value) <= _REPORT_DATA_SIZE) or (
        size is not None and len(value) != size
    ):
        raise UsageError(
            f"{option} has {len(value)} bytes, expected {size or '1 to 64'}", "an empty one is never fresh"
        )
    return value


def _optional(file: Path | None) -> bytes | None:
    return None if file is None else _read_any(file)


def _read_any(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(1024 * 1024)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "name a file that exists") from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(SIZE_LIMIT)
    except OSError as error:
        raise MalformedEvidenceError(
            f"cannot read {file}: {error.strerror}", "name a file that holds a raw quote or report"
        ) from None
