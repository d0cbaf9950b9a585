"""`securetf volume create|pack|unpack|ls|cat|check|status|mount`: volumes without a program."""

import functools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from securetf.errors import UsageError, VolumeIntegrityError
from securetf.provisioning import VolumeGrant
from securetf.shields import filesystem
from securetf.shields.local_trust import DEFAULT_CHUNK_SIZE, WARNING, LocalTrust

_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@dataclass(frozen=True, slots=True)
class _Access:
    """Who says which key and state: a CAS (with session, volume and owner's key), or a local trust file."""

    trust_file: Path | None
    cas: Path | None
    session: str | None
    volume: str | None
    key: Path | None

    @contextmanager
    def grant(self, *, writable: bool) -> Iterator[tuple[VolumeGrant, filesystem.Anchor]]:
        """Yield the grant and the anchor that belongs to it."""
        if self.trust_file is not None:
            if self.cas or self.session or self.volume or self.key:
                raise UsageError(
                    "--trust-file stands without a CAS", "drop --cas, --session, --volume and --key"
                )
            local = LocalTrust(self.trust_file)
            yield local.grant(writable=writable, name=self.trust_file.name), local.advance
            return
        if self.cas is None or self.session is None or self.volume is None or self.key is None:
            raise UsageError(
                "the volume's key is with a CAS, which needs --cas, --session, --volume and --key",
                "give all four, or --trust-file for local use without a CAS",
            )
        from securetf.cas_client import CasClient, load_trust  # noqa: PLC0415  (TLS is not needed without a CAS)
        from securetf.keys import load_owner_key  # noqa: PLC0415

        trust = load_trust(self.cas)
        if trust.simulated:
            click.echo("securetf: SIMULATION: this CAS proves nothing about its machine", err=True)
        owner = load_owner_key(self.key)
        with CasClient(trust) as client:
            ask = client.packing_grant if writable else client.export_grant
            grant = ask(self.session, self.volume, owner)

            def advance(epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes) -> None:
                client.advance(
                    grant.volume_id, epoch=epoch, seq=seq, root=root, new_seq=new_seq, new_root=new_root
                )

            yield grant, advance

    @contextmanager
    def opened(self, directory: Path, *, writable: bool) -> Iterator[filesystem.Volume]:
        """Open the volume; at the end close it, with its final commit."""
        with (
            self.grant(writable=writable) as (grant, anchor),
            filesystem.closing(filesystem.open_volume(directory, grant, anchor)) as volume,
        ):
            yield volume


def _with_access(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name CAS or trust file, as one argument `access`."""

    @functools.wraps(function)  # keeps the options that stand below
    def wrapper(
        trust_file: Path | None,
        cas: Path | None,
        session: str | None,
        volume_name: str | None,
        key: Path | None,
        **others: Any,
    ) -> None:
        function(access=_Access(trust_file, cas, session, volume_name, key), **others)

    for option in (
        click.option("--key", type=_FILE, help="The owner's private key (`securetf key new`)."),
        click.option("--volume", "volume_name", help="The volume's name in the Manifest."),
        click.option("--session", help="The session, tenant/name."),
        click.option("--cas", type=_FILE, help="The attested CAS (`securetf cas attest`)."),
        click.option(
            "--trust-file",
            type=_FILE,
            help="Instead of a CAS: key and state in a local file; no real rollback guard.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Pack, unpack, list, check and mount volumes."""


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--chunk-size",
    type=int,
    default=None,
    help="Bytes, 4096 to 1048576; only with --trust-file. Default 65536.",
)
@_with_access
def create(access: _Access, directory: Path, chunk_size: int | None) -> None:
    """Make an empty volume in DIRECTORY; with --trust-file also the trust file, with a new key."""
    if directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", "name a new directory")
    if access.trust_file is not None:
        LocalTrust.create(access.trust_file, chunk_size=chunk_size or DEFAULT_CHUNK_SIZE)
        click.echo(f"securetf: {WARNING}", err=True)
    elif chunk_size is not None:
        raise UsageError("--chunk-size is for --trust-file", "leave it away: the CAS says the chunk size")
    with access.opened(directory, writable=True):
        pass
    click.echo(f"{directory}: empty volume")


@command.command()
@click.argument("source", type=_DIRECTORY)
@click.argument("directory", type=_DIRECTORY)
@_with_access
@_JSON
def pack(access: _Access, source: Path, directory: Path, as_json: bool) -> None:
    """Make the volume in DIRECTORY hold exactly the tree under SOURCE. What it held before is gone."""
    if directory.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            f"{directory} lies inside {source}", "keep the volume outside of what is packed into it"
        )
    with access.opened(directory, writable=True) as volume, _progress("packing") as progress:
        stats = volume.pack(str(source), progress)
        status = volume.status()
    _report(as_json, directory, stats, status, "packed")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("target", type=_DIRECTORY)
@_with_access
@_JSON
def unpack(access: _Access, directory: Path, target: Path, as_json: bool) -> None:
    """Write the verified contents of the volume in DIRECTORY to TARGET, a new or empty directory."""
    with access.opened(directory, writable=False) as volume, _progress("unpacking") as progress:
        stats = volume.unpack(str(target), progress)
        status = volume.status()
    _report(as_json, target, stats, status, "unpacked")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("path", default="/")
@_with_access
@_JSON
def ls(access: _Access, directory: Path, path: str, as_json: bool) -> None:
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
        click.echo(f"{entry.kind[0]} {entry.mode:04o} {owner} {entry.size:>12} {entry.name}{arrow}")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("path")
@_with_access
def cat(access: _Access, directory: Path, path: str) -> None:
    """Print the verified contents of the file PATH of the volume in DIRECTORY."""
    with access.opened(directory, writable=False) as volume:
        contents = volume.cat(path)
    sys.stdout.buffer.write(contents)


@command.command()
@click.argument("directory", type=_DIRECTORY)
@_with_access
@_JSON
def check(access: _Access, directory: Path, as_json: bool) -> None:
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
@click.argument("directory", type=_DIRECTORY)
@_with_access
@_JSON
def status(access: _Access, directory: Path, as_json: bool) -> None:
    """Print sequence, root and sizes of the volume in DIRECTORY, if it holds the anchored state."""
    with access.opened(directory, writable=False) as volume:
        facts = _facts(volume.status())
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name}: {value}")


@command.command()
@click.argument("directory", type=_DIRECTORY)
@click.argument("mountpoint", type=_DIRECTORY)
@click.option("--writable", is_flag=True, help="Mount for writing; fences any other writer.")
@_with_access
def mount(access: _Access, directory: Path, mountpoint: Path, writable: bool) -> None:
    """Show the volume in DIRECTORY at MOUNTPOINT until this command is interrupted. Needs root."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)  # before native threads begin: they inherit it
    with access.opened(directory, writable=writable) as volume:
        mounted = volume.mount(str(mountpoint))
        try:
            how = "for writing" if writable else "read-only"
            click.echo(f"{directory} is mounted at {mounted.path} {how}; Ctrl-C ends it")
            sys.stdout.flush()
            signal.sigwait(_ENDING)
        finally:
            mounted.unmount()


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
    as_json: bool, where: Path, stats: filesystem.PackStats, status: filesystem.VolumeStatus, done: str
) -> None:
    names = ("files", "directories", "symlinks", "hard_links", "bytes")
    facts = {name: getattr(stats, name) for name in names}
    root = f"sha256:{status.root.hex()}"
    if as_json:
        click.echo(json.dumps({**facts, "sequence": status.seq, "root": root}))
        return
    click.echo(
        f"{where}: {done} {stats.files} files, {stats.bytes} bytes; sequence {status.seq}, root {root}"
    )


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a counter on a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415  (costs 50 ms, needed only on terminals)

    console = Console(stderr=True)
    with console.status(what) as line:
        yield lambda files, size: line.update(f"{what}: {files} files, {size / 1e6:.0f} MB")
