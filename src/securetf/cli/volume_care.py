"""`securetf volume log|diff|compact|rekey|repair`: the past of a volume, and its care."""

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from securetf.cli.volume_access import (
    DIRECTORY,
    FILE,
    JSON,
    PLACE,
    Access,
    Sealing,
    earlier,
    progress,
    with_access,
)
from securetf.errors import UsageError, VolumeBusyError, VolumeIntegrityError
from securetf.shields import filesystem
from securetf.shields.buckets import Place
from securetf.shields.local_trust import WARNING, LocalTrust

_SIGNS = {"added": "+", "removed": "-", "content": "M", "attributes": "a", "unreadable": "?"}


@click.command()
@click.argument("directory", type=PLACE)
@with_access
@JSON
def log(access: Access, directory: Place, as_json: bool) -> None:
    """List the states of the volume in DIRECTORY that are held, oldest first: `--at` takes their roots."""
    with access.opened(directory, writable=False) as volume:
        commits = volume.log()
    if as_json:
        click.echo(json.dumps({"commits": [_commit(one) for one in commits]}))
        return
    for one in commits:
        notes = [word for word, said in (("mount", one.mount), ("snapshot", one.snapshot)) if said]
        what = ", ".join([*notes, f"{one.inodes} inodes", f"{one.names} names"])
        time = _time(one.time_ns) or "-"
        click.echo(f"{one.seq:>8}  {time:20}  {one.root.hex()[:16]}  epoch {one.epoch:<4}  {what}")


@click.command()
@click.argument("directory", type=PLACE)
@click.argument("old")
@click.argument("new", required=False)
@with_access
@JSON
def diff(access: Access, directory: Place, old: str, new: str | None, as_json: bool) -> None:
    """Print how the state of root NEW (the anchored one if not given) differs from that of root OLD.

    + and - are paths that came and went, M other contents, a other attributes only, ? contents of the same
    size that are not held any more (or damaged), and cannot be compared.
    """
    with (
        access.grant(writable=False) as (grant, anchor),
        filesystem.closing(filesystem.open_volume(directory, grant, anchor)) as now,
        earlier(directory, grant, now, old) as before,
        earlier(directory, grant, now, new or now.status().root.hex()) as after,
    ):
        changes = before.diff(after)
        roots = [one.status().root.hex() for one in (before, after)]
    if as_json:
        listed = [{"path": change.path, "kind": change.kind} for change in changes]
        ends = {"old": f"sha256:{roots[0]}", "new": f"sha256:{roots[1]}"}
        click.echo(json.dumps({**ends, "changes": listed}))
        return
    for change in changes:
        click.echo(f"{_SIGNS[change.kind]} {change.path}")


@click.command()
@click.argument("directory", type=DIRECTORY)
@with_access
@JSON
def compact(access: Access, directory: Path, as_json: bool) -> None:
    """Give the dead space of the volume in DIRECTORY back to the storage. Fences any other writer.

    Can be interrupted at any point. Older states lose what lay there.
    """
    with access.opened(directory, writable=True) as volume, progress("compacting") as observe:
        before = volume.stored_bytes()
        done = volume.compact(observe)
        after = volume.stored_bytes()
    facts = {
        "segments": done.segments,
        "moved_bytes": done.moved_bytes,
        "dead_bytes_before": done.dead_before,
        "dead_bytes": done.dead_after,
        "stored_bytes_before": before,
        "stored_bytes": after,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(
        f"{directory}: {done.segments} segments emptied, {done.moved_bytes} bytes moved; dead bytes "
        f"{done.dead_before} before, {done.dead_after} now; stored {before} before, {after} now"
    )


@click.command()
@click.argument("directory", type=DIRECTORY)
@with_access
@JSON
def rekey(access: Access, directory: Path, as_json: bool) -> None:
    """Seal all of the volume in DIRECTORY anew under a new key. Fences any other writer.

    Can be interrupted at any point, and goes on when it is called again. When nothing needs the older key
    any more, the CAS, or the trust file, forgets it. Older states are not held afterwards. A volume that a
    workload writes gets the new key; the workload seals it anew beside its program when it runs next.
    """
    with access.rekeying() as rekeying:
        facts: dict[str, object] = {"key_version": rekeying.version, "writer": rekeying.writer}
        if rekeying.sealing is not None:
            facts |= _seal_anew(directory, rekeying.sealing)
    if as_json:
        click.echo(json.dumps(facts))
        return
    done = f"{facts.get('moved_bytes')} bytes sealed anew"
    if rekeying.writer is not None:
        done = f"workload {rekeying.writer} seals it anew when it runs next"
    click.echo(f"{directory}: key version {rekeying.version}, {done}")


def _seal_anew(directory: Path, sealing: Sealing) -> dict[str, object]:
    with (
        filesystem.closing(filesystem.open_volume(directory, sealing.grant, sealing.anchor)) as volume,
        progress("sealing anew") as observe,
    ):
        moved, complete = filesystem.rekey(volume, observe)
        if not complete:
            raise VolumeBusyError(
                f"{directory}: something else wrote to it, so not all of it is sealed anew",
                "call `securetf volume rekey` again: it goes on",
            )
        status = volume.status()
        sealing.end(status.epoch, status.seq)
    return {"moved_bytes": moved, "sequence": status.seq, "root": f"sha256:{status.root.hex()}"}


@click.command()
@click.argument("directory", type=DIRECTORY)
@click.argument("new", type=DIRECTORY)
@click.option("--new-trust-file", type=FILE, required=True, help="The trust file to make for NEW.")
@with_access
@JSON
def repair(access: Access, directory: Path, new: Path, new_trust_file: Path, as_json: bool) -> None:
    """Copy what can be read of the damaged volume in DIRECTORY into NEW, a new volume with a new key.

    Lists what was lost, and ends with 20 if anything was. DIRECTORY is only read: it stays evidence. To
    continue under a CAS, unpack NEW and pack it into a volume of the session.
    """
    if new.is_dir() and any(new.iterdir()):
        raise UsageError(f"{new} is not empty", "name a new directory")
    with access.grant(writable=False) as (grant, _):
        damaged, older = filesystem.salvage_volume(directory, grant)
        target = LocalTrust.create(new_trust_file, chunk_size=grant.chunk_size)
        if not as_json:
            click.echo(f"securetf: {WARNING}", err=True)
        fresh = target.grant(writable=True, name=new.name)
        with (
            filesystem.closing(damaged),
            filesystem.closing(filesystem.open_volume(new, fresh, target.advance)) as volume,
            progress("copying") as observe,
        ):
            stats, lost = damaged.salvage_into(volume, observe)
            state = damaged.status().seq
    if as_json:
        findings = [{"path": finding.path, "what": finding.what} for finding in lost]
        facts = {"files": stats.files, "bytes": stats.bytes, "sequence": state, "anchored": grant.seq}
        click.echo(json.dumps({**facts, "older_state": older, "lost": findings}))
    else:
        for finding in lost:
            click.echo(f"lost: {finding.path}: {finding.what}")
        click.echo(f"{new}: {stats.files} files, {stats.bytes} bytes, as of sequence {state}")
    if lost or older is not None:
        what = [f"{len(lost)} files could not be read"] if lost else []
        what += [f"only an older state could be opened: {older}"] if older is not None else []
        raise VolumeIntegrityError(
            f"{directory}: {'; '.join(what)}",
            f"{new} holds the rest; get what is missing from another copy, and keep {directory} as evidence",
        )


def _time(nanoseconds: int | None) -> str | None:
    if nanoseconds is None:
        return None
    return datetime.fromtimestamp(nanoseconds // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _commit(commit: filesystem.Commit) -> dict[str, object]:
    return {
        "sequence": commit.seq,
        "root": f"sha256:{commit.root.hex()}",
        "time": _time(commit.time_ns),
        "epoch": commit.epoch,
        "inodes": commit.inodes,
        "names": commit.names,
        "journal_bytes": commit.journal_bytes,
        "mount": commit.mount,
        "snapshot": commit.snapshot,
    }
