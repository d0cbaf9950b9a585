"""`securetf run WORKLOAD`: the program of a Manifest, after attestation, with its volumes and secrets."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from securetf import manifest as manifests
from securetf.cli import attester_options
from securetf.errors import SecuretfError, UsageError
from securetf.launcher.plan import LaunchPlan, describe, plan
from securetf.launcher.report import Report
from securetf.shields.buckets import SCHEME, Place, bucket

if TYPE_CHECKING:
    from securetf.attester import Attester

_PATH = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("workload")
@click.option(
    "--manifest", "manifest_file", type=_PATH, required=True, help="The session's current Manifest."
)
@click.option("--cas", type=_PATH, help="Trust file of the CAS, made by `securetf cas attest`.")
@click.option(
    "--volumes", type=_PATH, help="Directory that holds one directory per volume, of the volume's name."
)
@click.option(
    "--volume",
    multiple=True,
    metavar="NAME=DIR",
    help="Directory of one volume, or s3://BUCKET/PREFIX for one that is mounted read-only.",
)
@click.option(
    "--mount-by",
    type=click.Choice(["auto", "fuse", "memory"]),
    default="auto",
    show_default=True,
    help="How volumes are shown. memory: copies, packed when the program has ended; auto: fuse where it is.",
)
@click.option(
    "--insecure-simulation",
    "simulation",
    type=_PATH,
    metavar="PLATFORM_DIR",
    help="Use a simulated platform: it proves nothing about any machine.",
)
@attester_options.attester_options
@click.option(
    "--instance", type=int, default=0, show_default=True, help="Which instance of WORKLOAD this is."
)
@click.option(
    "--tunnel",
    metavar="IP:PORT",
    default="127.0.0.1:0",
    show_default=True,
    help="Where other members' shields reach this one; port 0 takes a free one.",
)
@click.option(
    "--advertise",
    metavar="IP:PORT",
    help="What the others are told instead, such as an address outside a NAT.",
)
@click.option(
    "--outside",
    multiple=True,
    metavar="NAME=IP:PORT",
    help="Where clients of one `outside` rule are met, instead of its public port on 0.0.0.0; repeatable.",
)
@click.option(
    "--interceptor",
    type=click.Choice(["auto", "namespace", "seccomp"]),
    default="auto",
    show_default=True,
    help="How the program's connections are caught; auto: namespace where it can be made.",
)
@click.option(
    "--members-deadline",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the members of the program's cluster.",
)
@click.option("--progress-fd", type=int, hidden=True, help="Descriptor for JSON lines of progress.")
@click.option("--dry-run", is_flag=True, help="Print what would happen and what was not checked; do nothing.")
@click.option("--report", "report_file", type=_PATH, help="Write times and memory as JSON to this file.")
def command(  # noqa: PLR0913, PLR0917  (one per option)
    workload: str,
    manifest_file: Path,
    cas: Path | None,
    volumes: Path | None,
    volume: tuple[str, ...],
    simulation: Path | None,
    instance: int,
    dry_run: bool,
    report_file: Path | None,
    **options: Any,
) -> int:
    """Run the program of WORKLOAD as the Manifest says; the exit status is the program's."""
    report = Report()
    report.add_start_of_process()
    with report.step("read manifest"):
        manifest = manifests.load(manifest_file)
        planned = plan(
            manifest,
            workload,
            host_environment=os.environ,
            instance=instance,
            volumes=volumes,
            directories=_directories(volume),
        )
    options["outside"] = _outside(planned, options["outside"])
    if dry_run:
        click.echo("\n".join(describe(planned, simulation=simulation)))
        return 0
    if cas is None:
        raise UsageError("`--cas` is missing", "name the trust file that `securetf cas attest` made")
    if report_file is not None:
        report.write(report_file)  # now, so that a wrong path is found before the program runs
    report.facts.update(
        session=manifest.session.name,
        workload=workload,
        instance=instance,
        manifest=manifests.hash_text(manifest),
    )
    try:
        return _run(planned, cas, simulation, report, options)
    except SecuretfError as error:
        report.failed(error)
        raise
    finally:
        if report_file is not None:
            _write_at_end(report, report_file)


def _write_at_end(report: Report, path: Path) -> None:
    """Write the report; a failure is told, but does not replace the program's exit status."""
    try:
        report.write(path)
    except SecuretfError as error:
        print(f"securetf: error [{error.code}]: {error.problem}", file=sys.stderr)


def _run(
    planned: LaunchPlan, cas: Path, simulation: Path | None, report: Report, options: dict[str, Any]
) -> int:
    with report.step("import"):
        from securetf.cas_client import load_trust  # noqa: PLC0415  (not needed for --dry-run and errors)
        from securetf.launcher.network import Stages  # noqa: PLC0415
        from securetf.launcher.progress import Progress  # noqa: PLC0415
        from securetf.launcher.real import CasProvisioner, FilesystemShield  # noqa: PLC0415
        from securetf.launcher.run import check_host, run  # noqa: PLC0415
        from securetf.shields.network import ProgramNetwork  # noqa: PLC0415
    why_memory = check_host(planned, mount_by=options["mount_by"])
    trust = load_trust(cas)
    report.facts["simulated"] = simulation is not None or trust.simulated
    if report.facts["simulated"]:
        print("securetf: INSECURE SIMULATION: nothing is proved about any machine", file=sys.stderr)
    provisioner = CasProvisioner(planned, trust, _attester(planned, simulation, options), report)
    network = Stages(
        network=ProgramNetwork(
            tunnel=options["tunnel"],
            advertise=options["advertise"],
            interceptor=options["interceptor"],
            outside=options["outside"],
        ),
        progress=Progress(options["progress_fd"]),
        members_deadline_s=options["members_deadline"],
    )
    shield = FilesystemShield(options["mount_by"], why_memory)
    outcome = run(planned, provisioner=provisioner, shield=shield, network=network, report=report)
    if not outcome.started:
        print("securetf: stopped by a signal before the program was started", file=sys.stderr)
    for problem in outcome.problems:
        print(f"securetf: error [{problem.code}]: {problem.problem}", file=sys.stderr)
        print(f"securetf: fix: {problem.fix}", file=sys.stderr)
    return outcome.status


def _attester(
    planned: LaunchPlan, simulation: Path | None, options: dict[str, Any]
) -> "Callable[[], Attester]":
    def make() -> "Attester":
        if simulation is None:
            return attester_options.attester(options, None, planned.code_roots)
        from securetf.attester.insecure_simulation import SimulatedTdx  # noqa: PLC0415  (never for hardware)

        machine = SimulatedTdx(simulation, planned.code_roots)
        return attester_options.attester(options, machine, planned.code_roots)

    return make


def _outside(planned: LaunchPlan, given: tuple[str, ...]) -> dict[str, str]:
    """Return where the clients of each rule are met: what is given, else the rule's port on all addresses."""
    found: dict[str, str] = {}
    for one in given:
        name, _, where = one.partition("=")
        if name not in planned.outside or name in found:
            raise UsageError(
                f"`--outside {one}` names no `outside` rule of {planned.workload}, or one again",
                f"its rules are {', '.join(sorted(planned.outside)) or 'none'}; write NAME=IP:PORT, once",
            )
        found[name] = where
    return {name: f"0.0.0.0:{port}" for name, port in planned.outside.items()} | found


def _directories(given: tuple[str, ...]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    for one in given:
        name, separator, directory = one.partition("=")
        if not separator or not name or not directory or name in found:
            raise UsageError(
                f"`--volume {one}` is not NAME=DIR, or names a volume again",
                "write it as NAME=DIR or NAME=s3://BUCKET/PREFIX, once",
            )
        found[name] = bucket(directory, os.environ) if directory.startswith(SCHEME) else Path(directory)
    return found
