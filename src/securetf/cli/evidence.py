"""`securetf evidence show FILE`: what a quote says, before anyone has verified it."""

import json
from pathlib import Path
from typing import Any

import click

from securetf.claims import Platform
from securetf.endorsements.trust import SIMULATION_MARK
from securetf.errors import MalformedEvidenceError
from securetf.evidence import dcap, tdx
from securetf.verifier import pck

_REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
_MORE = ("mr_config_id", "mr_owner", "mr_owner_config", "mr_seam", "tee_tcb_svn", "td_attributes", "xfam")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Show what a piece of Evidence says. Nothing is verified, nothing is sent anywhere."""


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:
    """Print the fields of the TDX quote in FILE (raw bytes). They are not authenticated."""
    facts = _facts(tdx.parse(_read(file)))
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo("not authenticated: whoever made this file chose every value below")
    if facts["simulated"]:
        click.echo(f"{SIMULATION_MARK}: proves nothing about any machine")
    for name, value in facts.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name + ':':<18} {shown}")


def _facts(quote: tdx.TdxQuote) -> dict[str, Any]:
    certificates = [
        certificate.subject.rfc4514_string()
        for certificate in pck.load_pem(quote.pck_chain.removesuffix(b"\0").decode("latin-1"))
    ]
    simulated = any(SIMULATION_MARK in subject for subject in certificates)
    attributes = int.from_bytes(quote.body.td_attributes, "little")
    return {
        "authenticated": False,
        "platform": (Platform.INSECURE_SIMULATION if simulated else Platform.TDX).value,
        "simulated": simulated,
        "version": quote.version,
        "size_bytes": len(tdx.encode(quote)),
        **{name: getattr(quote.body, name).hex() for name in _REGISTERS},
        "report_data": quote.body.report_data.hex(),
        **{name: getattr(quote.body, name).hex() for name in _MORE},
        "debug": bool(attributes & 1),
        "fmspc": pck.fmspc(quote.pck_chain),
        "certificates": certificates,
    }


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(dcap.QUOTE_SIZE_LIMIT + 1)
    except OSError as error:
        raise MalformedEvidenceError(
            f"cannot read {file}: {error.strerror}", "name a file that holds a raw TDX quote"
        ) from None
