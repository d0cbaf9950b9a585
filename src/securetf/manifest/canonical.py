"""The canonical form of a Manifest and its hash: the same for every spelling of the same content."""

import hashlib
from typing import Any

import msgspec

from securetf.manifest.types import Manifest, Volume, Workload

_LATER: dict[type[msgspec.Struct], tuple[str, ...]] = {  # keys that the first release did not have
    Manifest: ("network", "require", "binding"),
    Volume: ("per_instance",),
    Workload: (
        "instances", "listen", "connect", "external", "tensorflow_cluster", "tensorflow_task", "user_id",
        "outside", "receipts", "host_paths",
    ),
}  # fmt: skip


def canonical(manifest: Manifest) -> bytes:
    """Return the canonical JSON form: keys sorted, no spaces, UTF-8, defaults included.

    Keys that came after the first release are left out where they have their default, so that a release
    that knows more keys gives the same hash to the same Manifest.
    """
    tree = msgspec.to_builtins(manifest)
    _strip(tree, Manifest)
    for kind, table in ((Volume, tree["volumes"]), (Workload, tree["workloads"])):
        for entry in table.values():
            _strip(entry, kind)
    for name in ("require", "binding"):
        if name in tree:
            tree["appraisal"][name] = tree.pop(name)  # where TOML has it
    return msgspec.json.encode(tree, order="sorted")


def manifest_hash(manifest: Manifest) -> bytes:
    """Return the SHA-256 of the canonical form, 32 bytes."""
    return hashlib.sha256(canonical(manifest)).digest()


def hash_text(manifest: Manifest) -> str:
    """Return the Manifest hash as a `predecessor` names it: "sha256:" and 64 hex digits."""
    return "sha256:" + manifest_hash(manifest).hex()


def _strip(table: dict[str, Any], kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        if field.name in _LATER[kind]:
            made = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
            if table[field.name] == msgspec.to_builtins(made):
                del table[field.name]
