"""`securetf verify`: what a service proves, as a numbered list; the exit code is the verdict."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from securetf.errors import UsageError

if TYPE_CHECKING:
    from securetf.client import Observation, Verdict

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("url", required=False)
@click.option("--policy", "policy_file", type=_PATH, help="Client policy (docs/formats/client-policy-v1.md).")
@click.option("--statement", type=_PATH, help="Verify offline what `--save` wrote, instead of a URL.")
@click.option("--at", help='Moment for which to verify offline, such as "2026-11-23T02:00:00Z".')
@click.option("--save", type=_PATH, help="Keep what the service proved, for `--statement` and receipts.")
@click.option(
    "--print-policy",
    "trust_file",
    type=_PATH,
    metavar="CAS_JSON",
    help="Given the trust file of the CAS, print a policy that accepts the service as it is now.",
)
@click.option("--explain", is_flag=True, help="Say what each check is good for, and what none proves.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def command(
    url: str | None,
    policy_file: Path | None,
    statement: Path | None,
    at: str | None,
    save: Path | None,
    trust_file: Path | None,
    explain: bool,
    as_json: bool,
) -> None:
    """Have the service at URL (https://host[:port]) prove what a policy asks for, and send nothing else."""
    from securetf.client import load_policy, verify  # noqa: PLC0415 - a third of a second of imports
    from securetf.client.observation import save_observation  # noqa: PLC0415

    observation = _observe(url, statement)
    now = _moment(at, offline=statement is not None)
    if save is not None:
        save_observation(observation, save)
    if trust_file is not None:
        _print_policy(observation, trust_file, now)
        return
    if policy_file is None:
        raise UsageError("there is no policy", "give --policy FILE; --print-policy cas.json begins one")
    verdict = verify(observation, load_policy(policy_file), now=now)
    if as_json:
        click.echo(json.dumps(verdict.to_json()))
    else:
        _print(verdict, explain=explain, offline=statement is not None)
    verdict.require()


def _observe(url: str | None, statement: Path | None) -> "Observation":
    from securetf.client.ask import ask  # noqa: PLC0415
    from securetf.client.observation import load_observation  # noqa: PLC0415

    if statement is not None and url is None:
        return load_observation(statement)
    if url is None or statement is not None:
        raise UsageError("give either a URL or --statement FILE", "name the one that is to be verified")
    return ask(url.rstrip("/"))


def _moment(at: str | None, *, offline: bool) -> datetime:
    if at is None:
        return datetime.now(UTC)
    if not offline:
        raise UsageError("--at is for --statement: a service is verified as it is now", "leave --at out")
    try:
        return datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"--at is {at!r}, expected such as 2026-11-23T02:00:00Z", "give UTC") from None


def _print(verdict: "Verdict", *, explain: bool, offline: bool) -> None:
    from securetf.client.explain import MEANING, PROVES, SIMULATED  # noqa: PLC0415

    when = f"saved, judged for {verdict.at:%F %T} UTC" if offline else f"{verdict.at:%F %T} UTC"
    click.echo(f"{verdict.url} ({when})")
    for check in verdict.checks:
        click.echo(check.line())
        if explain:
            click.echo(f"         {MEANING[check.name]}")
    if explain:
        click.echo(f"\n{PROVES}")
    if verdict.simulated:
        click.echo(SIMULATED)
    click.echo("verdict: every check holds" if verdict.ok else "verdict: NOT PROVED; send nothing to it")


def _print_policy(observation: "Observation", trust_file: Path, now: datetime) -> None:
    from securetf.client.skeleton import write_policy  # noqa: PLC0415

    text, verdict = write_policy(observation, trust_file, now=now)
    verdict.require()
    click.echo(text, nl=False)
