"""`securetf cas start|attest|status`."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from securetf.cli import attester_options, hardware_options
from securetf.errors import EnvironmentUnfitError, UsageError

_PATH = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Start a CAS, attest one and pin it, ask whether it is ready."""


@command.command()
@click.option("--data", type=_PATH, required=True, help="Directory of the CAS's state.")
@click.option(
    "--listen", default="127.0.0.1:8443", show_default=True, help="host:port; port 0 takes a free one."
)
@attester_options.attester_options
@click.option(
    "--anchor",
    metavar="tpm[:NVINDEX]",
    help="Monotonic counter, with --attester: of the TPM, at an NV index of its own.",
)
@click.option(
    "--root-key",
    metavar="tpm[:PCR,…]|sgx[:mrenclave|mrsigner]|sev_snp[:FIELD,…]",
    help="What seals the root key, with --attester: the TPM, while these PCRs stay as they are, or the TEE. "
    "Default: the TEE where it can, else the TPM.",
)
@click.option("--sev-guest", type=_PATH, metavar="FILE", help="Device that derives keys (SEV-SNP).")
@hardware_options.verifying_options
@click.option(
    "--insecure-simulation",
    type=_PATH,
    help="Directory of a simulated platform. Proves nothing, protects nothing.",
)
@click.option(
    "--insecure-anchor", type=_PATH, help="File that stands in for a monotonic counter in simulation."
)
def start(
    data: Path, listen: str, insecure_simulation: Path | None, insecure_anchor: Path | None, **given: Any
) -> None:
    """Run a CAS in the foreground until SIGTERM; print one JSON line when it is ready.

    With --attester the CAS itself runs on hardware. With --endorsements it verifies hardware.
    """
    if not given["attester"] and (insecure_simulation is None or insecure_anchor is None):
        raise EnvironmentUnfitError(
            "it is not said what keeps the CAS's root key and counts its states",
            "name the platform with `--attester` (docs/platforms.md); for a trial give both "
            "--insecure-simulation and --insecure-anchor",
        )
    from securetf.cas.process import Settings, run  # noqa: PLC0415 - half a second of imports, only here

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    settings = Settings(
        data=data,
        listen=listen,
        insecure_simulation=insecure_simulation,
        insecure_anchor=insecure_anchor,
        hardware=hardware_options.machine(given, insecure_anchor),
        endorsements=given["endorsements"],
        sources=hardware_options.sources(given),
        tpm_roots=given["tpm_roots"],
        minimum_tcb_evaluation=given["minimum_tcb_evaluation"],
    )
    run(settings, _announce)


@command.command()
@click.argument("url")
@click.option("--insecure-simulation-root", type=_PATH, help="root.pem of the simulated platform of the CAS.")
@click.option(
    "--measurement",
    multiple=True,
    help="Accepted measurement of a simulated CAS, 96 hex digits; repeatable.",
)
@click.option(
    "--policy",
    type=_PATH,
    help="TOML with `[appraisal.PLATFORM]`: what is accepted of a CAS on hardware, as in a Manifest.",
)
@hardware_options.verifying_options
@click.option("--out", type=_PATH, default=Path("cas.json"), show_default=True, help="Trust file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the trust file's content as JSON.")
def attest(
    url: str,
    insecure_simulation_root: Path | None,
    measurement: tuple[str, ...],
    policy: Path | None,
    out: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Verify the Evidence of the CAS at URL and pin its key in a trust file.

    A simulated CAS needs --insecure-simulation-root and --measurement, one on hardware --policy and
    --endorsements, and for a TPM --tpm-roots.
    """
    from securetf.cas_client.trust import save_trust  # noqa: PLC0415
    from securetf.cli.cas_attestation import hardware, simulated  # noqa: PLC0415

    if insecure_simulation_root is not None and policy is None:
        trust = simulated(url, insecure_simulation_root, measurement)
    elif policy is not None and insecure_simulation_root is None and not measurement:
        trust = hardware(url, policy, given)
    else:
        raise UsageError(
            "it is not clear what the CAS must prove",
            "give --policy for hardware, or --insecure-simulation-root with --measurement for a simulation",
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
