"""`securetf session create|update|show|history|members`."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from securetf.errors import ManifestSyntaxError

if TYPE_CHECKING:
    from securetf.cas_client import CasClient
    from securetf.keys import OwnerKey
    from securetf.wire import SessionView

_PATH = click.Path(path_type=Path)
_CAS = click.option(
    "--cas", "trust_file", type=_PATH, required=True, help="Trust file of `securetf cas attest`."
)
_KEY = click.option("--key", "key_file", type=_PATH, required=True, help="Owner's key of `securetf key new`.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Create, update and read sessions. Each request is signed with the owner's key."""


@command.command()
@click.argument("manifest", type=_PATH)
@_CAS
@_KEY
@_JSON
def create(manifest: Path, trust_file: Path, key_file: Path, as_json: bool) -> None:
    """Submit MANIFEST as the first version of its session; the key becomes its creator."""
    text = _text(manifest)
    client, key = _client(trust_file, key_file)
    with client:
        _print(client.create_session(text, key), client.trust.simulated, as_json)


@command.command()
@click.argument("manifest", type=_PATH)
@_CAS
@_KEY
@_JSON
def update(manifest: Path, trust_file: Path, key_file: Path, as_json: bool) -> None:
    """Submit MANIFEST as the next version; its `predecessor` is the hash of the current one."""
    text = _text(manifest)
    client, key = _client(trust_file, key_file)
    with client:
        _print(client.update_session(text, key), client.trust.simulated, as_json)


@command.command()
@click.argument("session")
@_CAS
@_KEY
@click.option(
    "--manifest", "only_manifest", is_flag=True, help="Print only the Manifest, as it was submitted."
)
@_JSON
def show(session: str, trust_file: Path, key_file: Path, only_manifest: bool, as_json: bool) -> None:
    """Show the current version of SESSION (tenant/name) and where its volumes stand."""
    client, key = _client(trust_file, key_file)
    with client:
        view = client.read_session(session, key)
    if only_manifest and not as_json:
        click.echo(view.manifest, nl=False)
        return
    _print(view, client.trust.simulated, as_json)


@command.command()
@click.argument("session")
@_CAS
@_KEY
@_JSON
def history(session: str, trust_file: Path, key_file: Path, as_json: bool) -> None:
    """List all versions of SESSION: hash, predecessor, who signed, when."""
    client, key = _client(trust_file, key_file)
    with client:
        answer = client.history(session, key)
    if as_json:
        versions = [{name: getattr(v, name) for name in v.__struct_fields__} for v in answer.versions]
        click.echo(json.dumps({"session": session, "versions": versions}))
        return
    for version in answer.versions:
        click.echo(f"{version.version}  {version.manifest_hash}  {version.time}  {version.signed_by}")


@command.command()
@click.argument("session")
@_CAS
@_KEY
@_JSON
def members(session: str, trust_file: Path, key_file: Path, as_json: bool) -> None:
    """List the members of SESSION that attested with its current Manifest, and who is missing."""
    client, key = _client(trust_file, key_file)
    with client:
        view = client.members(session, key)
        simulated = client.trust.simulated
    if as_json:
        found = [{name: getattr(one, name) for name in one.__struct_fields__} for one in view.members]
        facts = {"manifest_hash": view.manifest_hash, "ready": view.ready, "missing": view.missing}
        click.echo(json.dumps({"session": session, **facts, "members": found, "simulated": simulated}))
        return
    click.echo(f"{session}: {len(view.members)} members, {view.manifest_hash}")
    now_s = int(time.time())
    for one in view.members:
        state = "valid until" if one.expires_at > now_s else "EXPIRED at"
        click.echo(
            f"  {one.workload}/{one.instance}: last attested {_time(one.last_attested_at)}, certificate "
            f"{state} {_time(one.expires_at)}, generation {one.generation}, at {one.endpoint or 'no address'}"
        )
    click.echo(f"  missing: {', '.join(view.missing) or 'none'}")
    if simulated:
        click.echo("SIMULATION: this CAS runs on no TEE")


def _time(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(path: Path) -> str:
    """Read and check a Manifest before anything is sent; return its text as it is."""
    from securetf import manifest as manifests  # noqa: PLC0415

    manifests.load(path)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestSyntaxError(
            f"the Manifest {path} cannot be read: {error}", "name a readable file"
        ) from None


def _client(trust_file: Path, key_file: Path) -> "tuple[CasClient, OwnerKey]":
    from securetf.cas_client import CasClient, load_trust  # noqa: PLC0415
    from securetf.keys import load_owner_key  # noqa: PLC0415

    return CasClient(load_trust(trust_file)), load_owner_key(key_file)


def _print(view: "SessionView", simulated: bool, as_json: bool) -> None:
    if as_json:
        fields = {name: getattr(view, name) for name in view.__struct_fields__ if name != "volumes"}
        volumes = [
            {
                "name": volume.name,
                "volume_id": volume.volume_id,
                "epoch": volume.epoch,
                "seq": volume.seq,
                "root": f"sha256:{volume.root.hex()}",
                "writer": volume.writer,
            }
            for volume in view.volumes
        ]
        click.echo(json.dumps({**fields, "volumes": volumes, "simulated": simulated}))
        return
    click.echo(f"{view.session}: version {view.version}, {view.manifest_hash}")
    click.echo(f"  creator {view.creator}")
    for volume in view.volumes:
        where = f"commit {volume.seq}, root sha256:{volume.root.hex()}" if volume.seq else "never written"
        click.echo(f"  volume {volume.name}: {where}, epoch {volume.epoch}, writer {volume.writer or 'none'}")
    for secret in view.secrets:
        click.echo(f"  secret {secret}: kept by the CAS, never shown")
    if simulated:
        click.echo("SIMULATION: this CAS runs on no TEE")
