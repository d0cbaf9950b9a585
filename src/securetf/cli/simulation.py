"""`securetf simulation create DIR`: a simulated TEE for development."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from securetf.attester.insecure_simulation import ROOT_FILE, create_platform, load_anchor


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Make an INSECURE SIMULATION of a TEE, for development. It protects nothing."""


@command.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def create(directory: Path, as_json: bool) -> None:
    """Make a simulated platform in DIRECTORY, which must be new or empty."""
    create_platform(directory, datetime.now(UTC))
    (pin,) = load_anchor(directory).spki_sha256
    root = directory / ROOT_FILE
    if as_json:
        facts = {"directory": str(directory), "root": str(root), "root_spki_sha256": pin.hex()}
        click.echo(json.dumps({**facts, "simulated": True}))
        return
    click.echo(f"INSECURE SIMULATION made in {directory}: it proves nothing about any machine")
    click.echo(f"development root: {root} (key SHA-256 {pin.hex()})")
