"""Manifests: a strict TOML file: what a session keeps, whom it trusts, what it runs. Pure but for `load`."""

import hashlib
import tomllib
from pathlib import Path

import msgspec

from securetf.errors import ManifestSyntaxError, ManifestValueError
from securetf.manifest import rules
from securetf.manifest.convert import dotted, nearest, struct
from securetf.manifest.diff import diff
from securetf.manifest.platforms import PcrPolicy, SgxPolicy, SnpPolicy, SnpTcbMinimum
from securetf.manifest.rules import split_mount, split_secret
from securetf.manifest.types import Access, Manifest, PlatformPolicy, Secret, Session, Volume, Workload

__all__ = [
    "MAX_SIZE", "Access", "Manifest", "PcrPolicy", "PlatformPolicy", "Secret", "Session", "SgxPolicy",
    "SnpPolicy", "SnpTcbMinimum", "Volume", "Workload",
    "canonical", "code_roots", "diff", "hash_text", "load", "manifest_hash", "mounts", "parse",
    "secret_places", "workload",
]  # fmt: skip

MAX_SIZE = 256 * 1024  # bytes of the file


def parse(text: str) -> Manifest:
    """Read one Manifest.

    Raises:
        ManifestSyntaxError: not TOML, or larger than `MAX_SIZE`.
        ManifestValueError: a key is unknown, missing or wrong; the message names it.
    """
    try:
        size = len(text.encode())
        if size > MAX_SIZE:
            raise ManifestSyntaxError(f"the Manifest has {size} bytes, the limit is {MAX_SIZE}", "shorten it")
        tree = tomllib.loads(text)
    except UnicodeEncodeError as error:
        raise ManifestSyntaxError(
            f"the Manifest is not Unicode text at character {error.start}", "save it as UTF-8"
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestSyntaxError(
            f"the Manifest is not TOML: {error}", "correct the line that is named"
        ) from None
    _refuse_later_freshness(tree)
    manifest = struct(tree, Manifest)
    rules.check(manifest)
    return manifest


def load(path: Path) -> Manifest:
    """Read the Manifest in `path`. Raises as `parse` does; ManifestSyntaxError too if it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ManifestSyntaxError(
            f"the Manifest {path} cannot be read: {error.strerror}", "name a readable TOML file"
        ) from None
    if len(raw) > MAX_SIZE:
        raise ManifestSyntaxError(f"the Manifest {path} is larger than {MAX_SIZE} bytes", "shorten it")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestSyntaxError(
            f"the Manifest {path} is not UTF-8 at byte {error.start}",
            "save it as UTF-8, without a byte order mark",
        ) from None
    return parse(text.replace("\r\n", "\n"))


def canonical(manifest: Manifest) -> bytes:
    """Return the canonical JSON form: defaults included, keys sorted, no spaces, UTF-8."""
    return msgspec.json.encode(manifest, order="sorted")


def manifest_hash(manifest: Manifest) -> bytes:
    """Return the SHA-256 of the canonical form, 32 bytes."""
    return hashlib.sha256(canonical(manifest)).digest()


def hash_text(manifest: Manifest) -> str:
    """Return the Manifest hash as a `predecessor` names it: "sha256:" and 64 hex digits."""
    return "sha256:" + manifest_hash(manifest).hex()


def workload(manifest: Manifest, name: str) -> Workload:
    """Return the workload `name`. Raises ManifestValueError naming those that exist."""
    found = manifest.workloads.get(name)
    if found is None:
        near = nearest(name, manifest.workloads)
        raise ManifestValueError(
            f'{manifest.session.name} has no workload "{name}"; it has {_listed(manifest.workloads)}',
            f'did you mean "{near}"?' if near else f"add `[{dotted('workloads', name)}]`, or name another",
        )
    return found


def mounts(chosen: Workload) -> dict[str, tuple[str, bool]]:
    """Return volume name to (path, writable) of a workload."""
    return {name: split_mount(mount, name) for name, mount in chosen.volumes.items()}


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


def _refuse_later_freshness(tree: dict[str, object]) -> None:
    volumes = tree.get("volumes")
    for name, volume in volumes.items() if isinstance(volumes, dict) else ():
        freshness = volume.get("freshness") if isinstance(volume, dict) else None
        if freshness in ("strict", "async"):
            raise ManifestValueError(
                f'`{dotted("volumes", name, "freshness")}` is "{freshness}", which is not in this release',
                'use "group" or "pinned"',
            )


def _listed(names: dict[str, Workload]) -> str:
    return ", ".join(sorted(names)) or "none"
