"""`securetf audit show|export|verify`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from securetf.errors import AuditError

if TYPE_CHECKING:
    from securetf.cas_client import CasClient
    from securetf.keys import OwnerKey
    from securetf.wire import AuditEntryLine, AuditHead

_PATH = click.Path(path_type=Path)
_CAS = click.option(
    "--cas", "trust_file", type=_PATH, required=True, help="Trust file of `securetf cas attest`."
)
_KEY = click.option("--key", "key_file", type=_PATH, required=True, help="Owner's key of `securetf key new`.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Read the audit log of a session, export it, and check an export offline."""


@command.command()
@click.argument("session")
@_CAS
@_KEY
@_JSON
def show(session: str, trust_file: Path, key_file: Path, as_json: bool) -> None:
    """Print the entries of SESSION; chain and signature are checked, other sessions are left out."""
    client, key = _client(trust_file, key_file)
    with client:
        for line in _entries(client, session, key, []):
            if line.entry is not None:
                click.echo(line.entry if as_json else _plain(json.loads(line.entry)))


@command.command()
@click.argument("session")
@click.argument("out", type=_PATH)
@_CAS
@_KEY
def export(session: str, out: Path, trust_file: Path, key_file: Path) -> None:
    """Write the whole chain to OUT as JSON lines with the signed head; `verify` checks it offline."""
    import msgspec  # noqa: PLC0415

    from securetf.wire.audit import ExportedHead  # noqa: PLC0415

    client, key = _client(trust_file, key_file)
    heads: list[AuditHead] = []
    count = 0
    try:
        with client, out.open("xb") as stream:
            for line in _entries(client, session, key, heads):
                stream.write(msgspec.json.encode(line) + b"\n")
                count += 1
            last = ExportedHead(cas=client.trust.spki_sha256, head=heads[-1])
            stream.write(msgspec.json.encode(last) + b"\n")
    except OSError as error:
        raise AuditError(f"{out} cannot be written: {error.strerror}", "name a new file") from None
    click.echo(f"{out}: {count} entries and the signed head")


@command.command()
@click.argument("file", type=_PATH)
@_CAS
@_JSON
def verify(file: Path, trust_file: Path, as_json: bool) -> None:
    """Check an export offline: every entry, the chain, and the head's signature by the pinned CAS."""
    from securetf.cas_client import load_trust  # noqa: PLC0415
    from securetf.wire.audit import check_export  # noqa: PLC0415

    trust = load_trust(trust_file)
    try:
        with file.open(encoding="utf-8") as stream:
            summary = check_export(stream, public_key=bytes.fromhex(trust.audit_public_key))
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(
            f"{file} cannot be read: {error}", "name an export of `securetf audit export`"
        ) from None
    if as_json:
        click.echo(json.dumps({name: getattr(summary, name) for name in summary.__struct_fields__}))
        return
    click.echo(
        f"{file}: {summary.length} entries hold, {summary.visible} of them readable, "
        f"{summary.refused} refusals; "
        f"signed at {summary.time}"
    )
    if summary.simulated:
        click.echo("SIMULATION: the CAS that signed runs on no TEE")


def _entries(
    client: "CasClient", session: str, key: "OwnerKey", heads: "list[AuditHead]"
) -> "Iterator[AuditEntryLine]":
    """Yield the entries up to the head that came with the first page; put that head in `heads`.

    Raises:
        AuditError: the chain does not lead to the signed head.
    """
    from securetf.wire.audit import START, follow  # noqa: PLC0415

    digest, position = START, 0
    while not heads or position < heads[0].length:
        page = client.audit(session, key, first=position)
        if not heads:
            heads.append(page.head)
        lines = page.entries[: heads[0].length - position]
        if not lines:
            break
        digest = follow(digest, position, lines)
        position += len(lines)
        yield from lines
    if (position, digest) != (heads[0].length, heads[0].digest):
        raise AuditError(
            f"the {position} entries do not lead to the signed head of {heads[0].length}",
            "treat the log as forged, and attest the CAS again",
        )


def _client(trust_file: Path, key_file: Path) -> "tuple[CasClient, OwnerKey]":
    from securetf.cas_client import CasClient, load_trust  # noqa: PLC0415
    from securetf.keys import load_owner_key  # noqa: PLC0415

    return CasClient(load_trust(trust_file)), load_owner_key(key_file)


def _plain(entry: dict[str, object]) -> str:
    who = entry.get("workload") or entry.get("actor") or "unknown"
    released = entry.get("released") or []
    text = f"{entry['seq']:>6}  {entry['time']}  {entry['verdict']:<8}{entry['action']:<22} {who}"
    if isinstance(released, list) and released:
        text += f"  released {', '.join(map(str, released))}"
    if entry.get("reason"):
        text += f"  {entry['code']}: {entry['reason']}"
    return text + ("  SIMULATION" if entry.get("simulated") else "")
