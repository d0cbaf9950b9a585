"""The command line: one module per subcommand, imported only when it is the one that was asked for."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from securetf import __version__
from securetf.errors import SecuretfError, UsageError

COMMANDS = {  # name → (module, one line of help)
    "audit": ("securetf.cli.audit", "Read and check the audit log of a CAS."),
    "cas": ("securetf.cli.cas", "Start a CAS, or attest one and pin it."),
    "convert": ("securetf.cli.convert", "Convert Keras models and SavedModels to LiteRT."),
    "demo": ("securetf.cli.demo", "Show the whole path on this machine, in simulation."),
    "drill": ("securetf.cli.drill", "Try on a copy whether attacks are noticed."),
    "endorsements": ("securetf.cli.endorsements", "Fetch, import and show what vendors say about platforms."),
    "evidence": ("securetf.cli.evidence", "Show, verify or collect Evidence."),
    "explain": ("securetf.cli.explain", "Explain an error code."),
    "key": ("securetf.cli.key", "Make an owner's key."),
    "manifest": ("securetf.cli.manifest", "Check, hash and compare Manifests."),
    "measure": ("securetf.cli.measure", "Print the measurement of the installed securetf."),
    "proxy": ("securetf.cli.proxy", "Carry a local port to an attested service."),
    "receipt": ("securetf.cli.receipt", "Read and verify receipts of answers."),
    "reference-values": (
        "securetf.cli.reference_values",
        "Print a Manifest's [appraisal] table from verified Evidence.",
    ),
    "run": ("securetf.cli.run", "Run a program as the Manifest says, after attestation."),
    "secret": ("securetf.cli.secret", "Import a secret into a session."),
    "serve": ("securetf.cli.serve", "Serve models to clients of TensorFlow Serving and Open Inference."),
    "session": ("securetf.cli.session", "Create, read and update sessions at a CAS."),
    "simulation": ("securetf.cli.simulation", "Make an insecure simulated platform for development."),
    "tpm": ("securetf.cli.tpm", "Enrol this machine's TPM at a CAS."),
    "up": ("securetf.cli.up", "Run all members of a Manifest on this machine."),
    "verify": ("securetf.cli.verify", "Have a service prove what a policy asks for."),
    "volume": ("securetf.cli.volume", "Pack, unpack, list and check volumes."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported by name from `COMMANDS`; each module exports `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the one command that was asked for."""
        if cmd_name not in COMMANDS:
            return None
        found = importlib.import_module(COMMANDS[cmd_name][0]).command
        if not isinstance(found, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name][0]}.command is not a command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command when there is none of this name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from securetf.manifest.convert import nearest  # noqa: PLC0415  (only when there is an error)

            near = nearest(args[0], COMMANDS)
            raise UsageError(
                f"there is no command {args[0]!r}",
                f"did you mean `securetf {near}`?" if near else "`securetf --help` lists the commands",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: docs/reference/exit-codes.md. `securetf explain STF-nnnn` explains an error.",
)
@click.version_option(__version__, prog_name="securetf", message="%(prog)s %(version)s")
@click.option("--traceback", is_flag=True, help="On an unexpected error, print where it came from.")
def command(traceback: bool) -> None:
    """Run unmodified TensorFlow programs on machines that are not trusted."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    sys.exit(call(arguments))


def call(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; print errors to stderr; return the exit code (docs/reference/exit-codes.md)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    color: dict[str, Any] = {"color": False} if os.environ.get("NO_COLOR") else {}
    try:
        result = command.main(given, prog_name="securetf", standalone_mode=False, **color)
        sys.stdout.flush()
    except click.Abort:
        print("securetf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # else Python complains again at its end
        return 141
    except Exception as error:
        known = _known(error)
        if known is None and "--traceback" in given:
            raise
        return _report(known or _defect(error))
    return result if isinstance(result, int) else 0


def _known(error: Exception) -> SecuretfError | None:
    if isinstance(error, SecuretfError):
        return error
    if isinstance(error, click.UsageError):
        where = f"`{error.ctx.command_path} --help`" if error.ctx else "`securetf --help`"
        return UsageError(error.format_message().rstrip("."), f"{where} shows what is expected")
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message().rstrip("."), "correct the argument")
    return None


def _defect(error: Exception) -> SecuretfError:
    return SecuretfError(
        f"unexpected {type(error).__name__}",  # never its text: it may hold values that must not be printed
        "this is a defect in securetf: run `securetf --traceback …` with the same arguments and report it",
    )


def _report(error: SecuretfError) -> int:
    print(f"securetf: error [{error.code}]: {error.problem}\nsecuretf: fix: {error.fix}", file=sys.stderr)
    return error.exit_code
