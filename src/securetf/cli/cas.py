"""`securetf cas start|attest|status`."""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from securetf.errors import EndorsementError, EnvironmentUnfitError, MeasurementError

_PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Start a CAS, attest one and pin it, ask whether it is ready."""


@command.command()
@click.option("--data", type=_PATH, required=True, help="Directory of the CAS's state.")
@click.option(
    "--listen", default="127.0.0.1:8443", show_default=True, help="host:port; port 0 takes a free one."
)
@click.option(
    "--insecure-simulation",
    type=_PATH,
    help="Directory of a simulated platform. Proves nothing, protects nothing.",
)
@click.option(
    "--insecure-anchor", type=_PATH, help="File that stands in for a monotonic counter in simulation."
)
def start(data: Path, listen: str, insecure_simulation: Path | None, insecure_anchor: Path | None) -> None:
    """Run a CAS in the foreground until SIGTERM; print one JSON line when it is ready."""
    if insecure_simulation is None or insecure_anchor is None:
        raise EnvironmentUnfitError(
            "this release runs a CAS only in simulation: no TEE holds its root key and no counter its anchor",
            "for a trial give both --insecure-simulation and --insecure-anchor",
        )
    from securetf.cas.process import Settings, run  # noqa: PLC0415 - half a second of imports, only here

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    settings = Settings(
        data=data,
        listen=listen,
        insecure_simulation=insecure_simulation,
        insecure_anchor=insecure_anchor,
    )
    run(settings, _announce)


@command.command()
@click.argument("url")
@click.option(
    "--insecure-simulation-root",
    type=_PATH,
    required=True,
    help="root.pem of the simulated platform of the CAS.",
)
@click.option(
    "--measurement",
    multiple=True,
    required=True,
    help="Accepted measurement of the CAS, 96 hex digits; repeatable.",
)
@click.option("--out", type=_PATH, default=Path("cas.json"), show_default=True, help="Trust file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the trust file's content as JSON.")
def attest(
    url: str, insecure_simulation_root: Path, measurement: tuple[str, ...], out: Path, as_json: bool
) -> None:
    """Verify the Evidence of the CAS at URL and pin its key in a trust file."""
    from securetf.cas_client.attest_cas import attest_cas  # noqa: PLC0415
    from securetf.cas_client.trust import save_trust  # noqa: PLC0415
    from securetf.claims import Platform  # noqa: PLC0415
    from securetf.endorsements import TrustAnchors  # noqa: PLC0415
    from securetf.manifest import PlatformPolicy  # noqa: PLC0415
    from securetf.verifier.insecure_simulation import verifier  # noqa: PLC0415

    for value in measurement:
        if len(value) != 96 or value.strip("0123456789abcdef"):
            raise MeasurementError(
                f"measurement {value[:100]!r} is not 96 lower-case hex digits",
                "take it from `securetf measure`",
            )
    try:
        anchors = TrustAnchors.insecure_simulation(insecure_simulation_root.read_bytes())
    except OSError as error:
        raise EndorsementError(
            f"{insecure_simulation_root} cannot be read: {error.strerror}",
            "name root.pem of the simulated platform",
        ) from None
    trust = attest_cas(
        url,
        verifiers_for=lambda endorsements: {Platform.INSECURE_SIMULATION: verifier(anchors, endorsements)},
        policy=PlatformPolicy(mr_td=measurement),
        now=datetime.now(UTC),
    )
    save_trust(trust, out)
    if as_json:
        import msgspec  # noqa: PLC0415

        click.echo(msgspec.json.encode(trust).decode())
        return
    for line in trust.verified:
        click.echo(line)
    if trust.simulated:
        click.echo("SIMULATION: this CAS runs on no TEE; nothing above says anything about a machine")
    click.echo(f"pinned in {out}")


@command.command()
@click.option("--cas", "trust_file", type=_PATH, required=True, help="Trust file of `securetf cas attest`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(trust_file: Path, as_json: bool) -> None:
    """Ask the pinned CAS whether it is ready."""
    from securetf.cas_client import CasClient, load_trust  # noqa: PLC0415

    with CasClient(load_trust(trust_file)) as client:
        answer = client.status()
    if as_json:
        fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
        click.echo(json.dumps({"url": client.trust.url, **fields}))
        return
    click.echo(f"{client.trust.url}: {answer.status}, release {answer.version}, key {answer.spki_sha256}")
    if answer.simulated:
        click.echo("SIMULATION: this CAS runs on no TEE")


def _announce(line: str) -> None:
    print(line, flush=True)
