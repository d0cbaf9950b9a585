"""`securetf volume accept-root`: go on from a backup."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from securetf.cli.volume_access import DIRECTORY, JSON, Access, earlier, with_access
from securetf.errors import UsageError, VolumeIntegrityError
from securetf.shields import filesystem, history


@click.command("accept-root")
@click.argument("directory", type=DIRECTORY)
@click.argument("root", required=False)
@with_access
@JSON
def accept_root(access: Access, directory: Path, root: str | None, as_json: bool) -> None:
    """Go on from the older state ROOT of the volume, which the backup in DIRECTORY holds.

    Everything that was written after that state is given up, and no storage can bring it back; the CAS
    records who said so. Reads and verifies all of the state first. Fences any writer. Without ROOT nothing
    changes, and the message names the state that DIRECTORY holds.
    """
    with access.accepting() as (seen, accept):
        backup, _ = filesystem.salvage_volume(directory, seen)
        with filesystem.closing(backup):
            commits = backup.log()
            if root is None:
                raise UsageError(
                    _what_is_there(directory, seen.seq, commits[-1]), _how(directory, commits[-1])
                )
            commit = history.held(commits, root)
            if commit.root == seen.root:
                raise UsageError(
                    f"{directory}: {commit.root.hex()} is the anchored root", "there is nothing to go back to"
                )
            with earlier(directory, seen, backup, commit.root.hex()) as then:
                findings = then.check()
        if findings:
            raise VolumeIntegrityError(
                f"{directory}: the state of sequence {commit.seq} is not whole: {len(findings)} damaged, "
                f"first {findings[0].path}: {findings[0].what}",
                "name a root that is (`securetf volume accept-root DIRECTORY` without one shows the newest), "
                "take another copy, or save what can be read: `securetf volume repair`",
            )
        accept(commit.seq, commit.root)
    if as_json:
        ends = {"from": f"sha256:{seen.root.hex()}", "root": f"sha256:{commit.root.hex()}"}
        click.echo(json.dumps({"sequence": commit.seq, **ends}))
        return
    click.echo(
        f"{directory}: the volume stands at sequence {commit.seq} again, root sha256:{commit.root.hex()}; "
        f"given up: everything up to sequence {seen.seq}"
    )


def _what_is_there(directory: Path, anchored: int, newest: filesystem.Commit) -> str:
    time = ""
    if newest.time_ns is not None:
        time = datetime.fromtimestamp(newest.time_ns // 1_000_000_000, UTC).strftime(" of %Y-%m-%dT%H:%M:%SZ")
    return (
        f"{directory} holds sequence {newest.seq}{time}, root sha256:{newest.root.hex()}; the volume is "
        f"anchored at sequence {anchored}"
    )


def _how(directory: Path, newest: filesystem.Commit) -> str:
    return (
        "to give up everything later, name it: "
        f"`securetf volume accept-root {directory} {newest.root.hex()[:16]} …`"
    )
