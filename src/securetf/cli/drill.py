"""`securetf drill rollback`: see on a copy that the shield notices."""

import json
import tempfile
from pathlib import Path

import click

from securetf.cli.volume_access import DIRECTORY, JSON, Access, with_access
from securetf.errors import VolumeIntegrityError
from securetf.shields import drill


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Try on a copy whether attacks are noticed."""


@command.command()
@click.argument("directory", type=DIRECTORY)
@with_access
@JSON
def rollback(access: Access, directory: Path, as_json: bool) -> None:
    """Set copies of the volume in DIRECTORY back to older states; each must be refused.

    The volume itself is only read. Key and newest state are those of the CAS, or of the trust file. Needs
    room for a few copies of the metadata in the directory for temporary files.
    """
    with (
        access.grant(writable=False) as (grant, _),
        tempfile.TemporaryDirectory(prefix="securetf-drill-") as scratch,
    ):
        trials = drill.rollback(directory, grant, Path(scratch))
    missed = [trial for trial in trials if trial.refusal is None]
    if as_json:
        rows = [
            {"set_back_to": trial.sequence, "refusal": trial.refusal and trial.refusal.problem}
            for trial in trials
        ]
        click.echo(json.dumps({"anchored": grant.seq, "trials": rows, "noticed": not missed}))
    else:
        click.echo(f"untouched copy: opens at sequence {grant.seq}")
        for trial in trials:
            said = f"refused [{trial.refusal.code}]: {trial.refusal.problem}" if trial.refusal else "OPENED"
            click.echo(f"copy set back to sequence {trial.sequence}: {said}")
    if missed:
        raise VolumeIntegrityError(
            f"{len(missed)} of {len(trials)} copies that were set back were opened",
            "do not use this installation; report it as SECURITY.md says",
        )
    if not as_json:
        click.echo("the shield noticed each of them")
