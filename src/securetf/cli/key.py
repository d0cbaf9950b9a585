"""`securetf key new|show`."""

import json
from pathlib import Path

import click

_FILE = click.Path(path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Make an owner's key, show which one a file holds."""


@command.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def new(file: Path, as_json: bool) -> None:
    """Make an Ed25519 key in FILE (mode 0600); an existing file is never overwritten."""
    from securetf.keys import create_owner_key  # noqa: PLC0415

    _show(create_owner_key(file).key_id, as_json)


@command.command()
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:
    """Print the public key id of FILE, as a Manifest's `[access]` names it."""
    from securetf.keys import load_owner_key  # noqa: PLC0415

    _show(load_owner_key(file).key_id, as_json)


def _show(key_id: str, as_json: bool) -> None:
    click.echo(json.dumps({"key_id": key_id}) if as_json else key_id)
