"""`securetf receipt show|verify`: what a receipt says, and whether it holds; offline."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from securetf.errors import UsageError

if TYPE_CHECKING:
    from securetf.receipt import Receipt

_PATH = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_MAX_RECEIPT_BYTES = 16384
_MAX_AUDIT_BYTES = 1 << 30


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Read and verify receipts: the value of a `Securetf-Receipt` header, in a file."""


@command.command()
@click.argument("file", type=_PATH)
@_JSON
def show(file: Path, as_json: bool) -> None:
    """Print what the receipt in FILE says. Nothing is checked."""
    from securetf.receipt import read_receipt  # noqa: PLC0415

    facts = _facts(read_receipt(_token(file)))
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name}: {value}")
    click.echo("not checked: `securetf receipt verify` does that")


@command.command()
@click.argument("file", type=_PATH)
@click.option("--policy", "policy_file", type=_PATH, required=True, help="Client policy.")
@click.option("--statement", type=_PATH, help="What `securetf verify --save` kept of the service.")
@click.option("--audit", type=_PATH, help="Export of the audit log: attestations, and the model's writer.")
@click.option("--request", type=_PATH, help="File with the request's body.")
@click.option("--response", type=_PATH, help="File with the response's body.")
@_JSON
def verify(
    file: Path,
    policy_file: Path,
    statement: Path | None,
    audit: Path | None,
    request: Path | None,
    response: Path | None,
    as_json: bool,
) -> None:
    """Check the receipt in FILE, from the pinned CAS down to the answer; the exit code is the verdict."""
    from securetf.client.explain import SIMULATED  # noqa: PLC0415 - a third of a second of imports
    from securetf.client.observation import load_observation  # noqa: PLC0415
    from securetf.client.policy import load_policy  # noqa: PLC0415
    from securetf.client.receipts import Proofs  # noqa: PLC0415
    from securetf.client.receipts import verify as check  # noqa: PLC0415

    proofs = Proofs(
        observation=None if statement is None else load_observation(statement),
        audit=None if audit is None else _read(audit, _MAX_AUDIT_BYTES).decode(errors="replace").splitlines(),
        request=None if request is None else _read(request, None),
        response=None if response is None else _read(response, None),
    )
    verdict = check(_token(file), load_policy(policy_file), proofs)
    if as_json:
        checks = [
            {"number": c.number, "name": c.name, "says": c.says, "status": c.status.value, "found": c.found}
            for c in verdict.checks
        ]
        facts = None if verdict.receipt is None else _facts(verdict.receipt)
        word = "pass" if verdict.ok else "fail"
        click.echo(
            json.dumps({"verdict": word, "simulated": verdict.simulated, "checks": checks, "receipt": facts})
        )
    else:
        for one in verdict.checks:
            click.echo(one.line())
        if verdict.simulated:
            click.echo(SIMULATED)
        click.echo("verdict: the receipt holds" if verdict.ok else "verdict: the receipt DOES NOT HOLD")
    verdict.require()


def _facts(receipt: "Receipt") -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    facts = msgspec.to_builtins(receipt)
    del facts["delegation"]
    return {**facts, "model": dict(facts["model"])}


def _token(file: Path) -> str:
    return _read(file, _MAX_RECEIPT_BYTES).decode(errors="replace").strip()


def _read(file: Path, limit: int | None) -> bytes:
    try:
        with file.open("rb") as stream:
            raw = stream.read(-1 if limit is None else limit + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", "name a readable file") from None
    if limit is not None and len(raw) > limit:
        raise UsageError(f"{file} is larger than {limit} bytes", "name another file")
    return raw
