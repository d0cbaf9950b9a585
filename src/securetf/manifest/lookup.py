"""What others ask of a Manifest: a workload, its instances, mounts, secrets and code."""

from securetf.errors import ManifestValueError
from securetf.manifest.convert import dotted, nearest
from securetf.manifest.rules import split_mount, split_secret
from securetf.manifest.types import Manifest, Workload


def workload(manifest: Manifest, name: str) -> Workload:
    """Return the workload `name`. Raises ManifestValueError naming those that exist."""
    found = manifest.workloads.get(name)
    if found is None:
        near = nearest(name, manifest.workloads)
        listed = ", ".join(sorted(manifest.workloads)) or "none"
        raise ManifestValueError(
            f'{manifest.session.name} has no workload "{name}"; it has {listed}',
            f'did you mean "{near}"?' if near else f"add `[{dotted('workloads', name)}]`, or name another",
        )
    return found


def check_instance(manifest: Manifest, workload_name: str, instance: int) -> None:
    """Raise ManifestValueError unless the workload exists and may have this instance."""
    maximum = workload(manifest, workload_name).instances.maximum
    if not 0 <= instance < maximum:
        raise ManifestValueError(
            f"{workload_name} of {manifest.session.name} has no instance {instance}, only 0 to {maximum - 1}",
            f"name one of these, or raise `{dotted('workloads', workload_name, 'instances', 'maximum')}`",
        )


def mounts(manifest: Manifest, workload_name: str, instance: int = 0) -> dict[str, tuple[str, bool]]:
    """Return volume to (path, writable) of one instance; a `per_instance` volume is called NAME.INSTANCE.

    These are the names of the grants in a Provision, and of the volumes' directories on the host. Ephemeral
    volumes are not among them.
    """
    chosen = workload(manifest, workload_name)
    return {
        instance_volume(manifest, name, instance): split_mount(mount, name)
        for name, mount in chosen.volumes.items()
        if manifest.volumes[name].protection != "ephemeral"
    }


def ephemeral(manifest: Manifest, workload_name: str) -> dict[str, str]:
    """Return ephemeral volume to path; each run of the workload has its own."""
    return {
        name: split_mount(mount, name)[0]
        for name, mount in workload(manifest, workload_name).volumes.items()
        if manifest.volumes[name].protection == "ephemeral"
    }


def instance_volume(manifest: Manifest, name: str, instance: int) -> str:
    """Return what a volume of the Manifest is called for one instance: NAME.INSTANCE if `per_instance`."""
    return f"{name}.{instance}" if manifest.volumes[name].per_instance else name


def volume_rule(manifest: Manifest, name: str) -> str | None:
    """Return the volume of the Manifest that `name`, NAME or NAME.INSTANCE, is one of; None if there is none.

    The instance must be one that a workload with this volume may have, written without leading zeros.
    """
    rule = manifest.volumes.get(name)
    if rule is not None:
        return None if rule.per_instance else name
    base, _, number = name.rpartition(".")
    rule = manifest.volumes.get(base)
    if rule is None or not rule.per_instance or not number.isascii() or not number.isdigit():
        return None
    users = (one.instances.maximum for one in manifest.workloads.values() if base in one.volumes)
    return (
        base
        if len(number) < 6 and str(int(number)) == number and int(number) < max(users, default=0)
        else None
    )


def protection(manifest: Manifest, name: str) -> str:
    """Return the protection of a volume, NAME or NAME.INSTANCE; of one that is not there, what all have."""
    rule = volume_rule(manifest, name)
    return "encrypted" if rule is None else manifest.volumes[rule].protection


def secret_places(chosen: Workload) -> dict[str, tuple[str, str]]:
    """Return secret name to ("file", path) or ("env", name) of a workload."""
    return {name: split_secret(target, name) for name, target in chosen.secrets.items()}


def code_roots(manifest: Manifest, workload_name: str) -> dict[str, bytes]:
    """Return volume name to root (32 bytes) of the workload's volumes that have a root in the Manifest.

    They are measured into RTMR 3 (`securetf.claims.code_register`), so that changed code is another workload.
    """
    roots = {}
    for name in workload(manifest, workload_name).volumes:
        root = manifest.volumes[name].root
        if root is not None:
            roots[name] = bytes.fromhex(root.removeprefix("sha256:"))
    return roots
