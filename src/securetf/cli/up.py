"""`securetf up`: all members of a Manifest on this machine, for development."""

from pathlib import Path
from typing import Any

import click

from securetf import manifest as manifests
from securetf.cli import attester_options
from securetf.errors import UsageError
from securetf.launcher.local import Local, Member, members, run_command

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--manifest", "manifest_file", type=_PATH, required=True, help="The session's current Manifest."
)
@click.option(
    "--cas", type=_PATH, required=True, help="Trust file of the CAS, made by `securetf cas attest`."
)
@click.option("--volumes", type=_PATH, help="Directory that holds one directory per volume.")
@click.option("--volume", multiple=True, metavar="NAME=DIR", help="Directory of one volume; may be repeated.")
@click.option(
    "--insecure-simulation",
    "simulation",
    type=_PATH,
    metavar="PLATFORM_DIR",
    help="Use a simulated platform: it proves nothing about any machine.",
)
@attester_options.attester_options
@click.option(
    "--interceptor",
    type=click.Choice(["auto", "namespace", "seccomp"]),
    default="auto",
    show_default=True,
    help="How the programs' connections are caught.",
)
@click.option(
    "--members-deadline",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long each member waits for the others of its cluster.",
)
@click.option("--reports", type=_PATH, metavar="DIR", help="Write DIR/MEMBER.json for each member.")
def command(
    manifest_file: Path,
    cas: Path,
    volumes: Path | None,
    volume: tuple[str, ...],
    simulation: Path | None,
    interceptor: str,
    members_deadline: float,
    reports: Path | None,
    **given: Any,
) -> int:
    """Run every workload of a Manifest on this machine, `instances.minimum` times each.

    A volume with `per_instance` lies in DIR.INSTANCE. Each line of output starts with its member; `*` marks
    what a member does: attesting, waiting, running, exited. Ctrl-C ends all; so does the first that fails,
    whose exit status is returned. Parameter servers and their workers are ended when the chief has ended.
    """
    manifest = manifests.load(manifest_file)
    found = members(manifest)
    if not found:
        raise UsageError(f"{manifest_file} has no workload", "add `[workloads.NAME]`")
    if reports is not None and not reports.is_dir():
        raise UsageError(f"{reports} is not a directory", "make it, or name another with `--reports`")
    options = ["--manifest", str(manifest_file), "--cas", str(cas), "--interceptor", interceptor]
    options += ["--members-deadline", str(members_deadline)]
    options += ["--volumes", str(volumes)] if volumes is not None else []
    options += ["--insecure-simulation", str(simulation)] if simulation is not None else []
    options += attester_options.arguments(given)

    def one(member: Member, progress: int) -> list[str]:
        named: list[str] = []
        for each in volume:
            name = each.partition("=")[0]
            if name in manifest.workloads[member.workload].volumes:
                own = f".{member.instance}" if manifest.volumes[name].per_instance else ""
                named += ["--volume", each + own]
        return run_command(member, progress, options + named, reports)

    return Local(found, one).run()
