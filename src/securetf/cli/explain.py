"""`securetf explain STF-nnnn`: what an error means and how to get out of it."""

import inspect
import json

import click

from securetf import errors, service_errors  # noqa: F401  (puts its errors into the tree)
from securetf.cli.ways_out import WAYS_OUT
from securetf.endorsements import refusals  # noqa: F401  (as above)
from securetf.serving import errors as serving_errors  # noqa: F401  (as above)


def classes() -> dict[str, type[errors.SecuretfError]]:
    """Return code to class, in the order of codes."""
    return dict(sorted(errors.by_code().items()))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("code", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(code: str | None, as_json: bool) -> None:
    """Explain the error CODE (such as STF-1101); without CODE, list all of them."""
    known = classes()
    if code is None:
        rows = [
            {"code": one, "name": kind.__name__, "exit_code": kind.exit_code} for one, kind in known.items()
        ]
        if as_json:
            click.echo(json.dumps(rows))
        else:
            click.echo("\n".join(f"{row['code']}  exit {row['exit_code']:>2}  {row['name']}" for row in rows))
        return
    wanted = code.upper() if code.upper().startswith("STF-") else f"STF-{code}"
    kind = known.get(wanted)
    if kind is None:
        raise errors.UsageError(f"there is no error code {code}", _nearest(wanted, known))
    cause, way_out = inspect.getdoc(kind) or "", WAYS_OUT.get(kind.__name__, "")
    if as_json:
        facts = {"code": wanted, "name": kind.__name__, "exit_code": kind.exit_code}
        click.echo(json.dumps({**facts, "cause": cause, "way_out": way_out}))
        return
    click.echo(f"{wanted} {kind.__name__} (exit code {kind.exit_code})\n\n{cause}")
    if way_out:
        click.echo(f"\nWay out: {way_out}")


def _nearest(wanted: str, known: dict[str, type[errors.SecuretfError]]) -> str:
    digits = wanted.removeprefix("STF-")
    if digits.isascii() and digits.isdigit():
        near = sorted(known, key=lambda one: (abs(int(one[4:]) - int(digits)), one))[:3]
    else:
        near = [one for one, kind in known.items() if digits.lower() in kind.__name__.lower()][:3]
    return "near it are " + ", ".join(near) if near else "`securetf explain` lists all codes"
