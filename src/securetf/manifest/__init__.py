"""Manifests: a strict TOML file: what a session keeps, whom it trusts, what it runs. Pure but for `load`."""

import tomllib
from pathlib import Path

from msgspec.structs import replace

from securetf.errors import ManifestSyntaxError, ManifestValueError
from securetf.manifest import network_rules, outside_rules, rules
from securetf.manifest.canonical import canonical, hash_text, manifest_hash
from securetf.manifest.convert import OF_APPRAISAL, of_appraisal, struct, unknown_key
from securetf.manifest.diff import diff
from securetf.manifest.lookup import (
    check_instance,
    code_roots,
    ephemeral,
    instance_volume,
    mounts,
    protection,
    secret_places,
    volume_rule,
    workload,
)
from securetf.manifest.platforms import PcrPolicy, SgxPolicy, SnpPolicy, SnpTcbMinimum
from securetf.manifest.types import (
    Access,
    Instances,
    Listen,
    Manifest,
    Network,
    OutsideListen,
    PlatformPolicy,
    Secret,
    Session,
    Volume,
    Workload,
)

__all__ = [
    "MAX_SIZE", "Access", "Instances", "Listen", "Manifest", "Network", "OutsideListen", "PcrPolicy",
    "PlatformPolicy", "Secret", "Session", "SgxPolicy", "SnpPolicy", "SnpTcbMinimum", "Volume", "Workload",
    "appraisal_of",
    "canonical", "check_instance", "code_roots", "diff", "ephemeral", "hash_text", "instance_volume", "load",
    "manifest_hash", "mounts", "parse", "protection", "secret_places", "volume_rule", "workload",
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
    manifest = _manifest(tree)
    rules.check(manifest)
    network_rules.check(manifest)
    outside_rules.check(manifest)
    return manifest


def appraisal_of(tree: dict[str, object]) -> Manifest:
    """Return a Manifest that has only the `[appraisal]` of a TOML tree; whatever else is in it is an error.

    Raises:
        ManifestValueError: as `parse`; or nothing is accepted.
    """
    if set(tree) != {"appraisal"}:
        raise ManifestValueError(
            f"the policy has {', '.join(sorted(tree)) or 'nothing'}, expected `[appraisal.PLATFORM]` alone",
            "write what is accepted of each platform, as in a Manifest",
        )
    manifest = _manifest({**tree, "session": {"name": "appraisal/policy"}})
    rules.check(manifest)
    return manifest


def _manifest(tree: dict[str, object]) -> Manifest:
    for name in OF_APPRAISAL:
        if name in tree:
            raise unknown_key((name,), set(Manifest.__struct_fields__) - OF_APPRAISAL.keys())
    appraisal = tree.get("appraisal")
    if not isinstance(appraisal, dict) or not OF_APPRAISAL.keys() & appraisal:
        return struct(tree, Manifest)
    rest = {name: policy for name, policy in appraisal.items() if name not in OF_APPRAISAL}
    manifest = struct({**tree, "appraisal": rest}, Manifest)
    given = {name: of_appraisal(name, appraisal[name]) for name in OF_APPRAISAL if name in appraisal}
    return replace(manifest, **given)


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
