"""`securetf manifest check|hash|diff`: all offline."""

import json
from pathlib import Path

import click

from securetf import manifest as manifests


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Check, hash and compare Manifests; nothing is sent anywhere."""


_FILE = click.Path(path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@command.command()
@click.argument("file", type=_FILE)
@_JSON
def check(file: Path, as_json: bool) -> None:
    """Say whether FILE is a valid Manifest and what it holds. What only the CAS knows is not checked."""
    manifest = manifests.load(file)
    facts = {
        "session": manifest.session.name,
        "hash": manifests.hash_text(manifest),
        "predecessor": manifest.session.predecessor,
        "platforms": sorted(manifest.appraisal),
        "workloads": sorted(manifest.workloads),
        "volumes": sorted(manifest.volumes),
        "secrets": sorted(manifest.secrets),
        **_network(manifest),
    }
    remarks = _remarks(manifest)
    if as_json:
        click.echo(json.dumps({"valid": True, **facts, "remarks": remarks}))
        return
    click.echo(f"{file}: valid")
    for key, value in facts.items():
        shown = (", ".join(value) or "none") if isinstance(value, list) else value
        click.echo(f"  {key.replace('_', ' ')}: {shown or 'none (first version)'}")
    for remark in remarks:
        click.echo(f"  note: {remark}")
    click.echo(
        "  not checked: whether the CAS has the predecessor, the volumes' roots and the secrets' values"
    )


@command.command("hash")
@click.argument("file", type=_FILE)
@_JSON
def hash_(file: Path, as_json: bool) -> None:
    """Print the Manifest hash of FILE, as the next version's `predecessor` names it."""
    text = manifests.hash_text(manifests.load(file))
    click.echo(json.dumps({"hash": text}) if as_json else text)


@command.command()
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@_JSON
def diff(old: Path, new: Path, as_json: bool) -> None:
    """Say in plain words what changes from OLD to NEW."""
    lines = manifests.diff(manifests.load(old), manifests.load(new))
    if as_json:
        click.echo(json.dumps({"changes": lines}))
    else:
        click.echo("\n".join(lines) or "no difference")


def _network(manifest: manifests.Manifest) -> dict[str, list[str]]:
    connections, clusters = [], set()
    for name, workload in sorted(manifest.workloads.items()):
        connections += [f"{name} to {peer}" for peer in sorted(workload.connect)]
        connections += [f"{name} to {outside} (unshielded)" for outside in sorted(workload.external)]
        connections += [
            f"outside to {name}:{rule} ({_allowed(one)})" for rule, one in sorted(workload.outside.items())
        ]
        clusters |= {workload.tensorflow_cluster} - {None}
    return {"connections": connections, "tensorflow_clusters": sorted(map(str, clusters))}


def _allowed(rule: manifests.OutsideListen) -> str:
    count = None if rule.clients is None else len(rule.clients)
    return {None: "anybody", 0: "nobody", 1: "1 client key"}.get(count, f"{count} client keys")


def _remarks(manifest: manifests.Manifest) -> list[str]:
    remarks = []
    if not manifest.appraisal:
        remarks.append("`appraisal` names no platform: no workload will be accepted")
    if "insecure_simulation" in manifest.appraisal:
        remarks.append("INSECURE SIMULATION is accepted: simulated Evidence proves nothing about any machine")
    for platform, policy in manifest.appraisal.items():
        registers = ("rtmr0", "rtmr1", "rtmr2") if isinstance(policy, manifests.PlatformPolicy) else ()
        open_ = [name for name in registers if getattr(policy, name) is None]
        if open_ and platform != "insecure_simulation":
            remarks.append(
                f"`appraisal.{platform}` does not compare {', '.join(open_)}: firmware or kernel may differ"
            )
        if not policy.platform_ids and platform != "insecure_simulation":
            remarks.append(f"`appraisal.{platform}.platform_ids` is absent: any genuine machine is accepted")
    for name, workload in manifest.workloads.items():
        if workload.external:
            remarks.append(
                f"`workloads.{name}.external` leaves the session: the program must speak TLS itself, and the "
                "host sees to whom and how much"
            )
        remarks += [
            f"`workloads.{name}.outside.{rule}.clients` is absent: any client may connect"
            for rule, one in sorted(workload.outside.items())
            if one.clients is None
        ]
    if not manifest.access.update:
        remarks.append("`access.update` is empty: this version can never be replaced")
    return remarks
