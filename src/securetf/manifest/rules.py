"""The rules between keys of a Manifest: names that must be defined, paths that must not collide."""

import posixpath
from collections.abc import Iterable
from typing import NoReturn

from securetf.errors import ManifestValueError
from securetf.manifest.convert import dotted, nearest
from securetf.manifest.types import Manifest, Volume, Workload

HOME_MEMORY = "/run/securetf"  # the launcher's own memory file system: HOME and TMPDIR of the program

BESIDE = frozenset({"tpm2", "gcp_vtpm"})  # platforms that a machine may have beside its TEE


def check(manifest: Manifest) -> None:
    """Raise ManifestValueError for the first key that contradicts another one."""
    for name, secret in manifest.secrets.items():
        path = dotted("secrets", name, "size_bytes")
        if secret.kind == "random" and secret.size_bytes == 0:
            _refuse(f"`{path}` is missing; a random secret has a size", f"add `{path} = 32`")
        if secret.kind == "value" and secret.size_bytes:
            _refuse(f"`{path}` is {secret.size_bytes}; an imported value has its own size", "remove the key")
    _required(manifest)
    _volumes(manifest)
    for name, workload in manifest.workloads.items():
        _workload(manifest, name, workload)


def _required(manifest: Manifest) -> None:
    for name in manifest.require:
        _defined(name, manifest.appraisal, "appraisal", "appraisal.require")
    machines = [name for name in manifest.require if name not in BESIDE]
    if len(machines) > 1 or (len(manifest.require) > 1 and not machines):
        _refuse(
            f"`appraisal.require` names {', '.join(manifest.require)}, which no machine has together",
            "require one TEE, and TPMs beside it; where one of several is enough, leave `require` out",
        )


def _volumes(manifest: Manifest) -> None:
    for name, volume in manifest.volumes.items():
        if volume.writer is not None:
            _defined(volume.writer, manifest.workloads, "workload", dotted("volumes", name, "writer"))
        if volume.freshness == "pinned" and volume.writer is not None:
            _refuse(
                f'`{dotted("volumes", name)}` has freshness "pinned" and writer "{volume.writer}"; '
                "a pinned volume is never written by a workload",
                'remove `writer`, or use freshness "group"',
            )
        if volume.root is not None and volume.freshness != "pinned":
            _refuse(
                f'`{dotted("volumes", name, "root")}` is set, but the freshness is "{volume.freshness}"; '
                "only a pinned volume has a root in the Manifest",
                'add `freshness = "pinned"`, or remove `root`',
            )
        if volume.export and volume.writer is None:
            _refuse(
                f"`{dotted('volumes', name, 'export')}` is set, but no workload writes this volume; "
                "owners with `access.update` take the key by packing",
                "remove `export`, or name the `writer`",
            )
        if volume.per_instance:
            _per_instance(manifest, name, volume)
        _protection(name, volume)


def _protection(name: str, volume: Volume) -> None:
    key = dotted("volumes", name)
    if volume.protection == "authenticated" and (
        volume.writer or volume.freshness not in ("group", "pinned")
    ):
        found = f'writer "{volume.writer}"' if volume.writer else f'freshness "{volume.freshness}"'
        _refuse(
            f'`{key}` has protection "authenticated" and {found}; owners pack its files',
            'remove the key, or use protection "encrypted"',
        )
    plain = volume == Volume(protection="ephemeral")
    if volume.protection == "ephemeral" and not plain:
        _refuse(
            f'`{key}` has protection "ephemeral" and other keys; each run has its own',
            "leave `protection` alone in this table",
        )


def _per_instance(manifest: Manifest, name: str, volume: Volume) -> None:
    if volume.root is not None:
        _refuse(
            f"`{dotted('volumes', name, 'root')}` is set for a volume of which each instance has its own",
            "remove `root`, or `per_instance`",
        )
    for other in manifest.volumes:
        base, _, number = other.rpartition(".")
        if base == name and number.isdigit():
            _refuse(
                f"`{dotted('volumes', other)}` is also what instance {number}'s own {name} is called",
                "rename one of the two",
            )
    if volume.writer is None:
        return
    written = manifest.workloads[volume.writer].instances.maximum
    for reader, workload in manifest.workloads.items():
        if name in workload.volumes and workload.instances.maximum > written:
            _refuse(
                f"`{dotted('workloads', reader, 'volumes', name)}` is per instance, but {reader} has up to "
                f"{workload.instances.maximum} instances and its writer {volume.writer} {written}",
                "each instance sees the volume of its own number: give the writer as many instances",
            )


def _workload(manifest: Manifest, name: str, workload: Workload) -> None:
    base = ("workloads", name)
    _absolute(workload.working_directory, dotted(*base, "working_directory"), root_allowed=True)
    if not workload.command[0]:
        _refuse(f"`{dotted(*base, 'command')}` starts with an empty word", "name the program first")
    for variable in workload.host_environment:
        if variable in workload.environment:
            key = dotted(*base, "host_environment")
            _refuse(f"`{key}` names {variable}, which `environment` sets too", "remove one of the two")
    taken: dict[str, str] = {HOME_MEMORY: "the program's home directory"}
    for volume, mount in workload.volumes.items():
        key = dotted(*base, "volumes", volume)
        _defined(volume, manifest.volumes, "volume", key)
        path, writable = split_mount(mount, key)
        _free(path, taken, key)
        writer = manifest.volumes[volume].writer
        if manifest.volumes[volume].protection == "ephemeral":
            if not writable:
                _refuse(
                    f'`{key}` is "{mount}", but {volume} is ephemeral: empty until this program writes it',
                    f'mount it "{path}:rw"',
                )
            continue
        if writable and writer != name:
            who = f'its writer is "{writer}"' if writer else "it has no `writer`: owners pack it"
            _refuse(
                f'`{key}` is "{mount}", but {who}',
                f'mount it "{path}:ro", or set `{dotted("volumes", volume, "writer")} = "{name}"`',
            )
        if writable and workload.instances.maximum > 1 and not manifest.volumes[volume].per_instance:
            _refuse(
                f'`{key}` is "{mount}", but {name} has up to {workload.instances.maximum} instances and '
                "a volume has one writer",
                f"set `{dotted('volumes', volume, 'per_instance')} = true`: each instance then has its own",
            )
    for directory in workload.memory:
        key = dotted(*base, "memory", directory)
        _absolute(directory, key)
        _free(directory, taken, key)
    _host_paths(workload, base, taken)
    files = _secrets(manifest, workload, base, taken)
    _nothing_beneath(manifest, workload, base, {*taken, *map(posixpath.dirname, files)})


def _host_paths(workload: Workload, base: tuple[str, ...], taken: dict[str, str]) -> None:
    """Nothing unprotected lies inside of what is protected; /proc and /dev are the launcher's to give."""
    protected = dict(taken)
    for path in workload.host_paths or {}:
        key = dotted(*base, "host_paths", path)
        _absolute(path, key)
        if path in ("/dev", "/proc") or path.startswith("/proc/"):
            _refuse(
                f"`{key}` would show {path}, of which every program gets its own part",
                "remove it; name single devices, such as /dev/nvidia0, where they are needed",
            )
        above = [other for other in protected if path.startswith(f"{other}/")]
        if above:
            _refuse(
                f"`{key}` lies inside {above[0]} of `{protected[above[0]]}`, which is protected",
                "show it elsewhere: nothing unprotected lies inside of what is protected",
            )
        _free(path, taken, key)


def _nothing_beneath(manifest: Manifest, workload: Workload, base: tuple[str, ...], taken: set[str]) -> None:
    """A mount beneath a followed one would go with the state in which it was made."""
    for volume, mount in workload.volumes.items():
        key = dotted(*base, "volumes", volume)
        path, writable = split_mount(mount, key)
        if manifest.volumes[volume].freshness != "follow" or writable:
            continue
        beneath = sorted(other for other in taken if other.startswith(f"{path}/"))
        if beneath:
            _refuse(
                f'`{key}` is "{mount}", a volume that is followed, and {beneath[0]} lies in it',
                f"mount {beneath[0]} elsewhere: the mount point would go with the next version",
            )


def _secrets(
    manifest: Manifest, workload: Workload, base: tuple[str, ...], taken: dict[str, str]
) -> set[str]:
    """Return the files of secrets."""
    files: set[str] = set()
    variables = {*workload.environment, *workload.host_environment}
    for secret, target in workload.secrets.items():
        key = dotted(*base, "secrets", secret)
        _defined(secret, manifest.secrets, "secret", key)
        kind, place = split_secret(target, key)
        if kind == "env":
            if place in variables:
                _refuse(f'`{key}` is "{target}", but {place} is set already', "use another name")
            variables.add(place)
            continue
        directory = posixpath.dirname(place)
        inside = [
            other for other in taken if other == directory or other.startswith(directory.rstrip("/") + "/")
        ]
        if directory == "/" or inside or place in files:
            found = "the root directory" if directory == "/" else inside[0] if inside else "another secret"
            _refuse(
                f'`{key}` is "{target}", but {directory} cannot be kept for secrets alone: {found} is there',
                "use a directory that holds nothing else, such as file:/run/secrets/NAME",
            )
        files.add(place)
    return files


def split_mount(mount: str, key: str) -> tuple[str, bool]:
    """Return path and whether writable of "/path:ro" or "/path:rw"."""
    path, _, mode = mount.rpartition(":")
    if mode not in {"ro", "rw"}:
        _refuse(f'`{key}` is "{mount}", expected "/path:ro" or "/path:rw"', "add the path and the mode")
    _absolute(path, key)
    return path, mode == "rw"


def split_secret(target: str, key: str) -> tuple[str, str]:
    """Return ("file", path) or ("env", name) of "file:/path" or "env:NAME"."""
    kind, _, place = target.partition(":")
    if kind == "file":
        _absolute(place, key)
    elif kind != "env" or not place.isidentifier() or not place.isascii():
        _refuse(
            f'`{key}` is "{target}", expected "file:/path" or "env:NAME"', "say where the program finds it"
        )
    return kind, place


def _absolute(path: str, key: str, *, root_allowed: bool = False) -> None:
    clean = (
        path.startswith("/") and "\0" not in path and posixpath.normpath(path) == path and path[:2] != "//"
    )
    if not clean or len(path) > 1024 or (path == "/" and not root_allowed):
        _refuse(
            f'`{key}` has the path "{path[:80]}", expected an absolute one without ".", ".." or final "/"',
            "correct the path",
        )


def _free(path: str, taken: dict[str, str], key: str) -> None:
    if path in taken:
        _refuse(f"`{key}` uses {path}, which `{taken[path]}` uses too", "mount one of them elsewhere")
    taken[path] = key


def _defined(name: str, known: Iterable[str], what: str, key: str) -> None:
    names = list(known)
    if name not in names:
        near = nearest(name, names)
        plural = f"{what}s"
        _refuse(
            f'`{key}` names the {what} "{name}", which is not defined',
            f'did you mean "{near}"?' if near else f"add `[{dotted(plural, name)}]`",
        )


def _refuse(problem: str, fix: str) -> NoReturn:
    raise ManifestValueError(problem, fix)
