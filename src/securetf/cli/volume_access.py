"""What the commands on volumes share: options for CAS or trust file, and the opening of a volume."""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import msgspec

from securetf.errors import UsageError, VolumeIntegrityError
from securetf.provisioning import Freshness, VolumeGrant
from securetf.shields import filesystem, history
from securetf.shields.buckets import SCHEME, Place, bucket
from securetf.shields.local_trust import LocalTrust

if TYPE_CHECKING:
    from securetf.cas_client import CasClient
    from securetf.keys import OwnerKey


class _LocalDirectory(click.Path):
    """A directory of this machine. The address of a bucket is none, though it could be the name of one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if str(value).startswith(SCHEME):
            raise UsageError(
                f"{value} is a bucket, and this command works on a directory of this machine",
                "unpack the bucket's volume into a directory, and pack that into a new volume",
            )
        return cast("Path", super().convert(value, param, ctx))


DIRECTORY = _LocalDirectory(path_type=Path, file_okay=False)


def PLACE(text: str) -> Place:  # noqa: N802  (the type of an argument, as those beside it)
    """A directory, or a bucket with what the environment says of it."""
    if text.startswith(SCHEME):
        return bucket(text, os.environ)
    return DIRECTORY.convert(text, None, None)


FILE = click.Path(path_type=Path, dir_okay=False)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True, slots=True)
class Access:
    """Who says which key and state: a CAS (with session, volume and owner's key), or a local trust file."""

    trust_file: Path | None
    cas: Path | None
    session: str | None
    volume: str | None
    key: Path | None
    root: str | None = None  # of an earlier state; None for the anchored one
    freshness: Freshness | None = None  # with a trust file; None for `group`

    @contextmanager
    def grant(self, *, writable: bool) -> Iterator[tuple[VolumeGrant, filesystem.Anchor]]:
        """Yield the grant and the anchor that belongs to it."""
        if self.trust_file is not None:
            local = self._local(self.trust_file)
            freshness = self.freshness or "group"
            grant = local.grant(writable=writable, name=self.trust_file.name, freshness=freshness)
            yield grant, local.advance
            return
        if self.freshness is not None:
            raise UsageError("--freshness is for --trust-file", "leave it away: the Manifest says it")
        with self._at_cas() as (client, session, volume, owner):
            grant = (client.packing_grant if writable else client.export_grant)(session, volume, owner)
            yield grant, _advance(client, grant)

    @contextmanager
    def rekeying(self) -> Iterator["Rekeying"]:
        """Have the next key made, unless one is on its way; yield what seals the volume anew."""
        if self.trust_file is not None:
            local = self._local(self.trust_file)
            version = local.begin_rekey()
            grant = local.grant(writable=True, name=self.trust_file.name)
            yield Rekeying(version, None, Sealing(grant, local.advance, local.end_rekey))
            return
        from securetf.cas_client.rekeying import begin_rekey, end_rekey  # noqa: PLC0415  (as below)

        with self._at_cas() as (client, session, volume, owner):
            begun = begin_rekey(client, session, volume, owner)
            if begun.writer is not None:
                yield Rekeying(begun.key_version, begun.writer, None)
                return
            grant = client.packing_grant(session, volume, owner)

            def end(epoch: int, seq: int) -> None:
                end_rekey(client, grant.volume_id, epoch=epoch, seq=seq)

            yield Rekeying(begun.key_version, None, Sealing(grant, _advance(client, grant), end))

    @contextmanager
    def accepting(self) -> Iterator[tuple[VolumeGrant, Callable[[int, bytes], None]]]:
        """Yield the grant to read the volume, and what lets it stand at an older (seq, root)."""
        if self.trust_file is not None:
            local = self._local(self.trust_file)
            grant = local.grant(writable=False, name=self.trust_file.name)
            yield grant, lambda seq, root: local.accept_root(grant, seq, root)
            return
        from securetf.cas_client.restoring import accept_root  # noqa: PLC0415  (as below)

        with self._at_cas() as (client, session, volume, owner):
            grant = client.export_grant(session, volume, owner)
            yield grant, lambda seq, root: accept_root(client, session, grant, seq, root, owner)

    def _local(self, trust_file: Path) -> LocalTrust:
        if self.cas or self.session or self.volume or self.key:
            raise UsageError("--trust-file stands without a CAS", "drop --cas, --session, --volume and --key")
        return LocalTrust(trust_file)

    @contextmanager
    def _at_cas(self) -> Iterator[tuple["CasClient", str, str, "OwnerKey"]]:
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
            yield client, self.session, self.volume, owner

    @contextmanager
    def opened(self, directory: Place, *, writable: bool) -> Iterator[filesystem.Volume]:
        """Open the volume; at the end close it, with its final commit."""
        with self.opened_by(directory, writable=writable) as (_, volume):
            yield volume

    @contextmanager
    def opened_by(
        self, directory: Place, *, writable: bool
    ) -> Iterator[tuple[VolumeGrant, filesystem.Volume]]:
        """As `opened`, with the grant of the newest state."""
        with (
            self.grant(writable=writable) as (grant, anchor),
            filesystem.closing(filesystem.open_volume(directory, grant, anchor)) as volume,
        ):
            if self.root is None:
                yield grant, volume
            else:
                with earlier(directory, grant, volume, self.root) as then:
                    yield grant, then


@dataclass(frozen=True, slots=True)
class Sealing:
    """What seals a volume anew. end(epoch, seq): says that nothing from this state on needs the older key."""

    grant: VolumeGrant
    anchor: filesystem.Anchor
    end: Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Rekeying:
    """A re-keying that has begun. writer: the workload that seals the volume anew; None: we do."""

    version: int
    writer: str | None
    sealing: Sealing | None


def _advance(client: "CasClient", grant: VolumeGrant) -> filesystem.Anchor:
    def advance(epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes) -> int:
        return client.advance(
            grant.volume_id, epoch=epoch, seq=seq, root=root, new_seq=new_seq, new_root=new_root
        )

    return advance


@contextmanager
def earlier(
    directory: Place, grant: VolumeGrant, volume: filesystem.Volume, root: str
) -> Iterator[filesystem.Volume]:
    """Open the state `root` of the open `volume`, read-only: one that its chain of roots leads to."""
    commit = history.held(volume.log(), root)
    past = msgspec.structs.replace(
        grant, seq=commit.seq, root=commit.root, writable=False, freshness="pinned"
    )
    with filesystem.closing(filesystem.open_volume(directory, past, None)) as then:
        try:
            yield then
        except VolumeIntegrityError as error:
            if commit.root == volume.status().root:
                raise
            raise VolumeIntegrityError(
                f"{error.problem}; this is the state of sequence {commit.seq}, and the storage of what was "
                "replaced or removed since is used again",
                "`securetf volume check --at` names the files that are not held any more; to keep a state "
                "whole, unpack it or copy the directory",
            ) from error


def with_access(function: Callable[..., None]) -> Callable[..., None]:
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
        function(access=Access(trust_file, cas, session, volume_name, key), **others)

    for option in (
        click.option("--key", type=FILE, help="The owner's private key (`securetf key new`)."),
        click.option("--volume", "volume_name", help="The volume's name in the Manifest."),
        click.option("--session", help="The session, tenant/name."),
        click.option("--cas", type=FILE, help="The attested CAS (`securetf cas attest`)."),
        click.option(
            "--trust-file",
            type=FILE,
            help="Instead of a CAS: key and state in a local file; no real rollback guard.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper


def with_past(function: Callable[..., None]) -> Callable[..., None]:
    """As `with_access`, with `--at` for an earlier state."""

    @functools.wraps(function)
    def wrapper(access: Access, at: str | None, **others: Any) -> None:
        function(access=replace(access, root=at), **others)

    option = click.option(
        "--at", metavar="ROOT", help="An earlier state: the first 8 or more digits of its root, see `log`."
    )
    return with_access(option(wrapper))


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a counter on a terminal; nothing otherwise."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415  (costs 50 ms, needed only on terminals)

    console = Console(stderr=True)
    with console.status(what) as line:
        yield lambda files, size: line.update(f"{what}: {files} files, {size / 1e6:.0f} MB")
