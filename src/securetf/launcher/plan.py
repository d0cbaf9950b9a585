"""From Manifest and options to a `LaunchPlan`: pure, so that `--dry-run` shows exactly what `run` does."""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from securetf import manifest as manifests
from securetf.errors import UsageError
from securetf.manifest import Manifest, network
from securetf.manifest.rules import HOME_MEMORY
from securetf.shields.buckets import Bucket, Place

HOME_MEMORY_SIZE = 1 << 30  # bytes at most; a tmpfs takes only what is written
SECRETS_MEMORY_SIZE = 1 << 20  # bytes at most per directory of secrets
DEFAULT_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": f"{HOME_MEMORY}/home",
    "TMPDIR": f"{HOME_MEMORY}/tmp",  # noqa: S108  (in memory, for the program alone)
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMount:
    """One mount of the program's namespace.

    kind: `volume` (`name` is the volume's, `directory` its ciphertext, on the host or in a bucket),
    `ephemeral` (as that, but made for this run alone), `memory` or `secrets` (both are a tmpfs of at most
    `size_bytes`).
    """

    kind: Literal["volume", "ephemeral", "memory", "secrets"]
    path: str
    name: str = ""
    writable: bool = True
    directory: Place | None = None
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """What one `securetf run` does. Holds names of secrets, never values.

    mounts: in the order in which they are mounted, so that a mount below another one comes after it.
    secret_files, secret_variables: path or variable to secret name. hexadecimal: the random secrets, which a
    variable carries as hex text. environment: without the secret variables. networked: it has
    network rules, so it gets a certificate. outside: rule's name to public port. receipts: it gets an
    identity directory. cluster: it waits for the members of this one and gets TF_CONFIG.
    user_id: None = as the launcher, without capabilities. host_paths: path to `ro` or `rw` of all that the
    program sees of the machine; None = everything.
    """

    manifest: Manifest = field(repr=False)
    manifest_hash: bytes
    workload: str
    command: tuple[str, ...]
    working_directory: str
    environment: Mapping[str, str]
    absent_environment: tuple[str, ...]
    mounts: tuple[PlannedMount, ...]
    secret_files: Mapping[str, str]
    secret_variables: Mapping[str, str]
    hexadecimal: frozenset[str]
    code_roots: Mapping[str, bytes]
    instance: int = 0
    networked: bool = False
    outside: Mapping[str, int] = field(default_factory=dict)
    receipts: bool = False
    cluster: str | None = None
    user_id: int | None = None
    host_paths: Mapping[str, str] | None = None


def plan(
    manifest: Manifest,
    workload_name: str,
    *,
    host_environment: Mapping[str, str],
    instance: int = 0,
    volumes: Path | None = None,
    directories: Mapping[str, Place] | None = None,
) -> LaunchPlan:
    """Return the plan for one workload.

    host_environment: the host's variables; only those that the Manifest names are taken. volumes: holds one
    directory per volume, of the volume's name. directories: volume name to place, goes before `volumes`.

    Raises:
        ManifestValueError: there is no such workload or instance.
        UsageError: a volume has no directory, or a directory is for no volume of this workload; a bucket for
            what is written, or not encrypted.
    """
    chosen = manifests.workload(manifest, workload_name)
    manifests.check_instance(manifest, workload_name, instance)
    files, variables = _secrets(chosen)
    mounts = [
        PlannedMount(kind="memory", path=HOME_MEMORY, size_bytes=HOME_MEMORY_SIZE),
        *(PlannedMount(kind="memory", path=path, size_bytes=size) for path, size in chosen.memory.items()),
        *_volumes(manifest, workload_name, instance, volumes, directories or {}),
    ]
    mounts += [
        PlannedMount(kind="secrets", path=path, size_bytes=SECRETS_MEMORY_SIZE)
        for path in sorted({posixpath.dirname(file) for file in files})
    ]
    taken = {name: host_environment[name] for name in chosen.host_environment if name in host_environment}
    _check_caches(mounts)
    return LaunchPlan(
        manifest=manifest,
        manifest_hash=manifests.manifest_hash(manifest),
        workload=workload_name,
        command=chosen.command,
        working_directory=chosen.working_directory,
        environment={**DEFAULT_ENVIRONMENT, **chosen.environment, **taken},
        absent_environment=tuple(name for name in chosen.host_environment if name not in host_environment),
        mounts=tuple(sorted(mounts, key=lambda one: (one.path.count("/"), one.path))),
        secret_files=files,
        secret_variables=variables,
        hexadecimal=frozenset(name for name in chosen.secrets if manifest.secrets[name].kind == "random"),
        code_roots=manifests.code_roots(manifest, workload_name),
        instance=instance,
        networked=bool(chosen.listen or chosen.connect or chosen.external or chosen.outside),
        outside={name: rule.public for name, rule in chosen.outside.items()},
        receipts=chosen.receipts,
        cluster=chosen.tensorflow_cluster,
        user_id=chosen.user_id,
        host_paths=chosen.host_paths,
    )


def _volumes(
    manifest: Manifest, workload: str, instance: int, volumes: Path | None, directories: Mapping[str, Place]
) -> Iterator[PlannedMount]:
    chosen = manifest.workloads[workload]
    for name in directories:
        if name not in chosen.volumes:
            raise UsageError(
                f"`--volume {name}=…`, but {workload} mounts no volume of this name",
                f"its volumes are {', '.join(sorted(chosen.volumes)) or 'none'}",
            )
    own = {manifests.instance_volume(manifest, name, instance): name for name in chosen.volumes}
    wanted: list[tuple[Literal["volume", "ephemeral"], str, str, bool]] = [
        ("volume", name, path, writable)
        for name, (path, writable) in manifests.mounts(manifest, workload, instance).items()
    ]
    wanted += [
        ("ephemeral", name, path, True) for name, path in manifests.ephemeral(manifest, workload).items()
    ]
    for kind, name, path, writable in wanted:
        directory = directories.get(own[name]) or (volumes / name if volumes else None)
        if directory is None:
            raise UsageError(
                f"no directory is given for the volume {name}",
                f"add `--volumes DIR` (DIR/{name} is used) or `--volume {own[name]}=DIR`",
            )
        if isinstance(directory, Bucket):
            if writable:
                raise UsageError(
                    f"{name} is mounted for writing, and {directory} is a bucket, which is mounted read-only",
                    f"mount it as {path}:ro in the Manifest, or give `--volume {own[name]}=DIR`",
                )
            directory.check_protection(manifests.protection(manifest, name))
        else:
            directory = directory.absolute()
        yield PlannedMount(kind=kind, path=path, name=name, writable=writable, directory=directory)


def _check_caches(mounts: list[PlannedMount]) -> None:
    """No cache of ciphertext lies in what is mounted for the program: it would take the program's room."""
    for one in mounts:
        cache = Path(one.directory.directory) if isinstance(one.directory, Bucket) else None
        covered = [other.path for other in mounts if cache and cache.absolute().is_relative_to(other.path)]
        if covered:
            raise UsageError(
                f"the cache of {one.directory} would lie in {cache}, and {covered[0]} is the program's own",
                "name a directory of this machine in SECURETF_BUCKET_DIRECTORY",
            )


def _secrets(chosen: manifests.Workload) -> tuple[dict[str, str], dict[str, str]]:
    places = manifests.secret_places(chosen)
    files = {place: name for name, (kind, place) in places.items() if kind == "file"}
    return files, {place: name for name, (kind, place) in places.items() if kind == "env"}


def describe(planned: LaunchPlan, *, simulation: Path | None) -> list[str]:
    """Return the lines that `--dry-run` prints: what would happen, in order, and what was not checked."""
    session = planned.manifest.session.name
    lines = [
        f"workload {planned.workload}, instance {planned.instance}, of {session}, "
        f"Manifest sha256:{planned.manifest_hash.hex()}",
        f"1. attest: INSECURE SIMULATION from {simulation}"
        if simulation
        else "1. attest: the TEE of this machine",
    ]
    lines += [
        f"   measured code: {name} sha256:{root.hex()}" for name, root in sorted(planned.code_roots.items())
    ]
    lines.append("2. receive from the CAS: " + (_counted(planned) or "nothing"))
    lines.append("3. mount, for the program alone:")
    for one in planned.mounts:
        if one.kind == "volume":
            mode = "rw" if one.writable else "ro"
            how = manifests.protection(planned.manifest, one.name)
            what = "ciphertext" if how == "encrypted" else "plain files, verified when read,"
            lines.append(f"   {one.path} ({mode}): volume {one.name}, {what} in {one.directory}")
        elif one.kind == "ephemeral":
            lines.append(
                f"   {one.path} (rw): {one.name}, gone after this run; ciphertext in {one.directory}"
            )
        else:
            what = "secrets" if one.kind == "secrets" else "memory"
            lines.append(f"   {one.path} (rw): {what}, at most {one.size_bytes} bytes, never on disk")
    lines += [f"   {path}: secret {name}" for path, name in sorted(planned.secret_files.items())]
    if planned.host_paths is not None:
        lines.append("   of this machine's files the program sees these alone:")
        lines += [f"   {path} ({mode})" for path, mode in sorted(planned.host_paths.items())]
    lines += _described_network(planned)
    user = "" if planned.user_id is None else f" as user {planned.user_id}"
    lines.append(f"5. start in {planned.working_directory}{user}: {_quoted(planned.command)}")
    lines += [f"   {name}={value}" for name, value in sorted(planned.environment.items())]
    lines += [f"   {name}=<secret {secret}>" for name, secret in sorted(planned.secret_variables.items())]
    lines += [f"   {name} is not set on this host" for name in planned.absent_environment]
    lines.append(
        "6. wait, unmount, commit what was written, anchor it at the CAS, return the program's exit status"
    )
    lines.append(
        "not checked: CAS, attestation, if this Manifest is current, volumes, network, program, root, FUSE"
    )
    return lines


def _described_network(planned: LaunchPlan) -> list[str]:
    chosen = manifests.workload(planned.manifest, planned.workload)
    if not planned.networked:
        return ["4. shield the network: the program has none but its own loopback"]
    own = ", ".join(network.address(planned.manifest, planned.workload, planned.instance))
    lines = [f"4. shield the network; the program's own addresses: {own}"]
    lines += [
        f"   port {rule.port} ({name}): from {', '.join(rule.sources) or 'nobody'}"
        for name, rule in sorted(chosen.listen.items())
    ]
    for peer in chosen.connect:
        workload, _, rule_name = peer.partition(":")
        port = planned.manifest.workloads[workload].listen[rule_name].port
        lines += [
            f"   to {workload}-{instance}:{port} at "
            + ", ".join(network.address(planned.manifest, workload, instance))
            for instance in range(planned.manifest.workloads[workload].instances.maximum)
            if (workload, instance) != (planned.workload, planned.instance)
        ]
    lines += [f"   to {name}: UNSHIELDED, {how}" for name, how in sorted(chosen.external.items())]
    lines += [
        f"   port {rule.port} ({name}): from OUTSIDE of the session by TLS on port {rule.public}, "
        + ("anybody" if rule.clients is None else f"{len(rule.clients)} client keys")
        for name, rule in sorted(chosen.outside.items())
    ]
    if planned.receipts:
        lines.append("   the program gets a receipt key; the identity is renewed while it runs")
    if planned.cluster:
        lines.append(f"   wait for the cluster {planned.cluster}; the CAS issues TF_CONFIG")
    return lines


def _counted(planned: LaunchPlan) -> str:
    volumes = sorted(one.name for one in planned.mounts if one.kind == "volume")
    secrets = sorted({*planned.secret_files.values(), *planned.secret_variables.values()})
    parts = [f"keys of the volumes {', '.join(volumes)}"] if volumes else []
    return "; ".join(parts + ([f"the secrets {', '.join(secrets)}"] if secrets else []))


def _quoted(command: tuple[str, ...]) -> str:
    import shlex  # noqa: PLC0415  (only for --dry-run)

    return shlex.join(command)
