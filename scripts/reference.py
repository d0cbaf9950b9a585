"""Writes docs/reference/cli.md from the command line itself; `make docs` runs it, tests compare."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from securetf.cli import command as root

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEADER = """\
# Command line

Made by `make docs` from the commands themselves. Results go to standard output, everything else to standard
error. An error is two lines, `securetf: error [STF-nnnn]: …` and `securetf: fix: …`; see [errors](errors.md)
and [exit codes](exit-codes.md). `NO_COLOR` is honoured. Every command has `--help`.
"""


def commands(
    group: click.Command, path: tuple[str, ...] = ("securetf",)
) -> Iterator[tuple[str, click.Command]]:
    """Yield the path and the command for `group` and everything below it, in the order of names."""
    yield " ".join(path), group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            child = group.get_command(context, name)
            if child is not None and not child.hidden:
                yield from commands(child, (*path, name))


def page() -> str:
    """Return the whole page."""
    return HEADER + "".join(section(path, one) for path, one in commands(root))


def section(path: str, one: click.Command) -> str:
    """Return the section of one command: how it is called, what it does, its options."""
    arguments = " ".join(_argument(each) for each in one.params if isinstance(each, click.Argument))
    options = [each for each in one.params if isinstance(each, click.Option) and not each.hidden]
    usage = " ".join(filter(None, [path, "[OPTIONS]" if options else "", arguments]))
    usage += " COMMAND" if isinstance(one, click.Group) else ""
    lines = ["", f"## `{path}`", "", f"    {usage}", "", inspect.cleandoc(one.help or one.short_help or "")]
    if options:
        lines += ["", "| option | meaning |", "|---|---|", *map(_row, options)]
    return "\n".join(lines) + "\n"


def _argument(argument: click.Argument) -> str:
    name = argument.make_metavar(click.Context(click.Command("reference")))
    return name if argument.required else f"[{name.strip('[]')}]"


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    notes = [option.help or ""]
    if option.required:
        notes.append("Required.")
    if option.show_default and option.default is not None:
        notes.append(f"Default: `{option.default}`.")
    if option.multiple:
        notes.append("May be repeated.")
    return f"| {names} | {' '.join(notes).replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page())
