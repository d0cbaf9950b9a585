"""`securetf secret import`."""

import sys
from pathlib import Path

import click

from securetf.errors import UsageError

_PATH = click.Path(path_type=Path)
_MAX_BYTES = 65536


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Put secrets into a session. No command takes one out again."""


@command.command("import")
@click.option("--session", required=True, help="tenant/name.")
@click.option("--secret", "name", required=True, help="Name of a secret of kind `value` in the Manifest.")
@click.option("--cas", "trust_file", type=_PATH, required=True, help="Trust file of `securetf cas attest`.")
@click.option("--key", "key_file", type=_PATH, required=True, help="Owner's key of `securetf key new`.")
@click.option(
    "--from-file", "source", type=_PATH, help="File with the value; otherwise it is read from stdin."
)
def import_secret(session: str, name: str, trust_file: Path, key_file: Path, source: Path | None) -> None:
    """Seal a value to the CAS. It is taken byte by byte, never from the command line."""
    from securetf.cas_client import CasClient, load_trust  # noqa: PLC0415
    from securetf.keys import load_owner_key  # noqa: PLC0415

    key = load_owner_key(key_file)
    value = _read(source)
    with CasClient(load_trust(trust_file)) as client:
        client.import_secret(session, name, value, key)
    click.echo(f"{session}: secret {name} imported, {len(value)} bytes")


def _read(source: Path | None) -> bytes:
    try:
        if source is None:
            value = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with source.open("rb") as stream:
                value = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"{source or 'stdin'} cannot be read: {error.strerror}", "name a readable file"
        ) from None
    if not 0 < len(value) <= _MAX_BYTES:
        size = "more than" if value else "none of"
        raise UsageError(f"the secret has {size} 1 to {_MAX_BYTES} bytes", "give a value of that size")
    return value
