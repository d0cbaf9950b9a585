"""`securetf proxy`: a local plain port whose bytes go to an attested service, for clients in any language."""

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from securetf.client import Verdict
    from securetf.errors import SecuretfError

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--to", "url", required=True, help="The service: https://host[:port].")
@click.option(
    "--policy",
    "policy_file",
    type=_PATH,
    required=True,
    help="Client policy (docs/formats/client-policy-v1.md).",
)
@click.option(
    "--listen", default="127.0.0.1:0", show_default=True, help="Local address; port 0 takes a free one."
)
@click.option("--client-key", type=_PATH, help="PEM file of a P-256 key, if the service knows its clients.")
@click.option(
    "--grace",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="Seconds that open connections have to end after SIGTERM.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the ready line as JSON.")
def command(
    url: str, policy_file: Path, listen: str, client_key: Path | None, grace: float, as_json: bool
) -> None:
    """Carry HTTP/1.1, HTTP/2 and gRPC from a local plain port to a service, once it has proved itself.

    Runs in the foreground until SIGTERM. Prints one line when it is ready. Nothing is sent to a service that
    does not meet the policy; local programs then get 502, 504 or GOAWAY with the reason.
    """
    from securetf.client.policy import load_policy  # noqa: PLC0415 - a third of a second of imports
    from securetf.client.proxy import local_address, run  # noqa: PLC0415
    from securetf.client.service import AttestedService  # noqa: PLC0415
    from securetf.client.tls import AttestedContext  # noqa: PLC0415

    address = local_address(listen)
    policy = load_policy(policy_file)
    service = AttestedService(url, policy, on_attestation=_said)
    AttestedContext(service, client_key)  # a key that cannot be used is told at once

    def ready(host: str, port: int) -> None:
        name = f"[{host}]" if ":" in host else host
        proved = service.ensure()
        facts = {"listen": f"http://{name}:{port}", "to": service.url, "simulated": proved.simulated}
        who = f"{proved.workload}/{proved.instance} of {proved.session}, {proved.platform}"
        plain = f"listening on {facts['listen']}, for {service.url} ({who})"
        click.echo(json.dumps(facts) if as_json else plain)
        sys.stdout.flush()

    cut = asyncio.run(
        run(service, address, client_key=client_key, ready=ready, told=_told, grace_s=grace), debug=False
    )
    if cut:
        click.echo(f"securetf: {cut} connections were still open and were cut", err=True)


def _said(verdict: "Verdict") -> None:
    """Say each attestation in a line: that the service goes on being the one of the policy is news, too."""
    simulation = " SIMULATION: nothing is protected." if verdict.simulated else ""
    if verdict.attestation is None:
        failed = ", ".join(one.name for one in verdict.checks if one.status.value == "fail")
        click.echo(f"securetf: not proved: {failed}.{simulation}", err=True)
        return
    until = verdict.attestation.valid_until
    click.echo(f"securetf: the service is attested until {until:%F %T} UTC.{simulation}", err=True)


def _told(error: "SecuretfError") -> None:
    click.echo(f"securetf: error [{error.code}]: {error.problem}", err=True)
