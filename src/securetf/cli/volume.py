"""`securetf volume create|pack|unpack|ls|cat|check|status|mount`: volumes without a program."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import click

from securetf.cli import volume_care, volume_restore
from securetf.cli.volume_access import DIRECTORY, JSON, PLACE, Access, progress, with_access, with_past
from securetf.errors import SecuretfError, UsageError, VolumeIntegrityError
from securetf.shields import filesystem
from securetf.shields.buckets import Bucket, Place
from securetf.shields.local_trust import DEFAULT_CHUNK_SIZE, WARNING, LocalTrust

_LETTERS = {
    "file": "f",
    "directory": "d",
    "symlink": "s",
    "fifo": "p",
    "socket": "u",
    "character device": "c",
    "block device": "b",
}
PLAIN = "plain"  # docs/formats/volume-v1.md: the plain files of an authenticated volume
_PART = 4 << 20  # bytes that `cat` holds in memory
_LOOK_S = 1.0  # between two looks whether a volume is still mounted
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Pack, unpack, list, check and mount volumes."""


@command.command()
@click.argument("directory", type=PLACE)
@click.option(
    "--chunk-size",
    type=int,
    default=None,
    help="Bytes, 4096 to 1048576; only with --trust-file. Default 65536.",
)
@click.option(
    "--protection",
    type=click.Choice(["encrypted", "authenticated"]),
    default=None,
    help="Only with --trust-file. authenticated: plain files in DIRECTORY/plain, verified when read.",
)
@with_access
def create(
    access: Access,
    directory: Place,
    chunk_size: int | None,
    protection: Literal["encrypted", "authenticated"] | None,
) -> None:
    """Make an empty volume in DIRECTORY; with --trust-file also the trust file, with a new key."""
    if isinstance(directory, Bucket):
        directory.check_protection(protection or "encrypted")
    elif directory.is_dir() and any(one.name != PLAIN for one in directory.iterdir()):
        raise UsageError(f"{directory} is not empty", "name a new directory")
    made: LocalTrust | None = None
    if access.trust_file is not None:
        made = LocalTrust.create(
            access.trust_file,
            chunk_size=chunk_size or DEFAULT_CHUNK_SIZE,
            protection=protection or "encrypted",
        )
        click.echo(f"securetf: {WARNING}", err=True)
    elif chunk_size is not None or protection is not None:
        given = "--chunk-size" if chunk_size is not None else "--protection"
        raise UsageError(f"{given} is for --trust-file", "leave it away: the CAS says it")
    try:
        with access.opened(directory, writable=True):
            pass
    except SecuretfError:
        if made is not None:
            made.remove_unused()
        raise
    click.echo(f"{directory}: empty volume")


@command.command()
@click.argument("source", type=click.Path(path_type=Path, allow_dash=True))
@click.argument("directory", type=PLACE)
@click.option(
    "--update",
    is_flag=True,
    help="Keep files of the same size and time of change: after an interruption, or a small change.",
)
@with_access
@JSON
def pack(access: Access, source: Path, directory: Place, update: bool, as_json: bool) -> None:
    """Make the volume in DIRECTORY hold exactly the tree under SOURCE. What it held before is gone.

    SOURCE is a directory, a tar file, or - for a tar stream on standard input. A stream is one commit: one
    that is cut or refused changes nothing.

    The files of an authenticated volume stay where they are: SOURCE is DIRECTORY/plain.
    """
    stream = str(source) == "-" or source.is_file()
    given = "what the stream holds" if stream else source
    if stream and update:
        raise UsageError("--update is for directories", "drop --update: a stream is always packed whole")
    if not stream and isinstance(directory, Path) and directory.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            f"{directory} lies inside {source}", "keep the volume outside of what is packed into it"
        )
    with access.opened(directory, writable=True) as volume, progress("packing") as observe:
        if isinstance(directory, Path) and volume.protection == "authenticated":
            _check_plain(directory, source, given)
        if stream:
            name = None if str(source) == "-" else str(source)
            stats = filesystem.pack_tar(volume, name, observe)
        else:
            stats = volume.pack(str(source), observe, update=update)
        status = volume.status()
    _report(as_json, directory, stats, status, "packed")


@command.command()
@click.argument("directory", type=PLACE)
@click.argument("target", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--tar", is_flag=True, help="Make TARGET a tar file instead of a directory.")
@with_past
@JSON
def unpack(access: Access, directory: Place, target: Path, tar: bool, as_json: bool) -> None:
    """Write the verified contents of the volume in DIRECTORY to TARGET, a new or empty directory.

    After an interruption the same command goes on: what is there is compared, and only what differs is
    written.

    With --tar TARGET is a new tar file, and - is standard output; the report then goes to standard error.
    """
    to_stdout = str(target) == "-"
    with access.opened(directory, writable=False) as volume, progress("unpacking") as observe:
        if tar or to_stdout:
            stats = filesystem.unpack_tar(volume, None if to_stdout else str(target), observe)
        else:
            stats = volume.unpack(str(target), observe)
        status = volume.status()
    _report(as_json, target, stats, status, "unpacked", err=to_stdout)


@command.command()
@click.argument("directory", type=PLACE)
@click.argument("path", default="/")
@with_past
@JSON
def ls(access: Access, directory: Place, path: str, as_json: bool) -> None:
    """List PATH of the volume in DIRECTORY."""
    with access.opened(directory, writable=False) as volume:
        entries = volume.ls(path)
    if as_json:
        names = ("name", "kind", "mode", "uid", "gid", "size", "mtime_ns", "target")
        click.echo(
            json.dumps({"entries": [{name: getattr(entry, name) for name in names} for entry in entries]})
        )
        return
    for entry in entries:
        arrow = f" -> {entry.target}" if entry.target is not None else ""
        owner = f"{entry.uid:>5} {entry.gid:>5}"
        click.echo(f"{_LETTERS[entry.kind]} {entry.mode:04o} {owner} {entry.size:>12} {entry.name}{arrow}")


@command.command()
@click.argument("directory", type=PLACE)
@click.argument("path")
@with_past
def cat(access: Access, directory: Place, path: str) -> None:
    """Print the verified contents of the file PATH of the volume in DIRECTORY, part by part: where one is
    damaged, nothing follows and the exit code is 20."""
    with access.opened(directory, writable=False) as volume:
        offset = 0
        while part := filesystem.read_part(volume, path, offset, _PART):
            sys.stdout.buffer.write(part)
            offset += len(part)


@command.command()
@click.argument("directory", type=PLACE)
@with_past
@JSON
def check(access: Access, directory: Place, as_json: bool) -> None:
    """Read and verify everything in the volume in DIRECTORY; name each damaged file."""
    with access.opened(directory, writable=False) as volume:
        findings = volume.check()
        status = volume.status()
    if as_json:
        found = [{"path": finding.path, "what": finding.what} for finding in findings]
        click.echo(json.dumps({"findings": found, **_facts(status)}))
    else:
        for finding in findings:
            click.echo(f"{finding.path}: {finding.what}")
    if findings:
        raise VolumeIntegrityError(
            f"{directory}: {len(findings)} damaged: {findings[0].path}: {findings[0].what}",
            "keep the directory as evidence and restore this state's ciphertext from another copy",
        )
    if not as_json:
        click.echo(f"{directory}: all {status.files} files verified, sequence {status.seq}")


@command.command()
@click.argument("directory", type=PLACE)
@with_past
@JSON
def status(access: Access, directory: Place, as_json: bool) -> None:
    """Print sequence, root, sizes and key of the volume in DIRECTORY, if it holds the anchored state.

    `rekeying` is true while something may still be sealed under the key before.
    """
    with access.opened_by(directory, writable=False) as (grant, volume):
        commits = volume.log()
        held = {"roots_held": len(commits), "oldest_held": commits[0].seq, "freshness": volume.freshness}
        key = {"key_version": grant.key_version, "rekeying": grant.older_key is not None}
        facts = {**_facts(volume.status()), "stored_bytes": volume.stored_bytes(), **held, **key}
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name}: {value}")


@command.command()
@click.argument("directory", type=PLACE)
@click.argument("mountpoint", type=DIRECTORY)
@click.option("--writable", is_flag=True, help="Mount for writing; fences any other writer.")
@click.option(
    "--freshness",
    type=click.Choice(["strict", "group", "async"]),
    default=None,
    help="What waits for the anchor; only with --writable and --trust-file. Default group.",
)
@with_past
def mount(
    access: Access,
    directory: Place,
    mountpoint: Path,
    writable: bool,
    freshness: Literal["strict", "group", "async"] | None,
) -> None:
    """Show the volume in DIRECTORY at MOUNTPOINT until this is interrupted, or unmounted. Needs root."""
    if freshness is not None and not writable:
        raise UsageError("--freshness says when writes are anchored", "add --writable, or drop it")
    access = replace(access, freshness=freshness)
    if writable and access.root is not None:
        raise UsageError("--at shows an earlier state, which cannot be written", "drop --writable or --at")
    if writable and isinstance(directory, Bucket):
        raise UsageError(
            f"{directory} is a bucket, which is mounted read-only", "drop --writable, or pack into it"
        )
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # before native threads begin: they inherit it
    with access.opened(directory, writable=writable) as volume:
        mounted = volume.mount(str(mountpoint))
        try:
            how = f"for writing, freshness {volume.freshness}" if writable else "read-only"
            device = os.stat(mounted.path).st_dev
            click.echo(f"{directory} is mounted at {mounted.path} {how}; Ctrl-C or umount ends it")
            sys.stdout.flush()
            while signal.sigtimedwait(_ENDING, _LOOK_S) is None and _is_there(mounted.path, device):
                pass
        finally:
            mounted.unmount()


def _is_there(mountpoint: str, device: int) -> bool:
    """Say whether a mount still serves: it was not unmounted by somebody else, nor its connection aborted."""
    try:
        return os.stat(mountpoint).st_dev == device
    except OSError:
        return False  # unmounting tells why


for _care in (volume_care.log, volume_care.diff, volume_care.compact, volume_care.rekey, volume_care.repair):
    command.add_command(_care)
command.add_command(volume_restore.accept_root)


def _check_plain(directory: Path, source: Path, given: Path | str) -> None:
    """An authenticated volume is packed where its files lie."""
    plain = directory / PLAIN
    if source.resolve() != plain.resolve():
        raise UsageError(
            f"the plain files of {directory}, which is authenticated, lie in {plain}",
            f"copy or move {given} there, then pack {plain} {directory}",
        )


def _facts(status: filesystem.VolumeStatus) -> dict[str, int | str]:
    return {
        "epoch": status.epoch,
        "sequence": status.seq,
        "root": f"sha256:{status.root.hex()}",
        "files": status.files,
        "bytes": status.bytes,
        "dead_bytes": status.dead_bytes,
    }


def _report(
    as_json: bool,
    where: Place,
    stats: filesystem.PackStats,
    status: filesystem.VolumeStatus,
    done: str,
    *,
    err: bool = False,
) -> None:
    names = ("files", "directories", "symlinks", "hard_links", "specials", "bytes", "kept")
    facts = {name: getattr(stats, name) for name in names}
    root = f"sha256:{status.root.hex()}"
    if as_json:
        click.echo(json.dumps({**facts, "sequence": status.seq, "root": root}), err=err)
        return
    line = f"{where}: {done} {stats.files} files, {stats.bytes} bytes; sequence {status.seq}, root {root}"
    click.echo(line, err=err)
