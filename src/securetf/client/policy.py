"""A client's policy: which CAS, which service, which software it trusts. docs/formats/client-policy-v1.md"""

import hashlib
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from securetf.cas_client.trust import load_trust
from securetf.errors import CasIdentityError, ManifestValueError
from securetf.manifest.convert import struct
from securetf.manifest.platforms import AzurePolicy, PcrPolicy, SgxPolicy, SnpPolicy
from securetf.manifest.types import NAME, Hash, Name, PlatformName, PlatformPolicy
from securetf.service_errors import ClientPolicyError

MAX_SIZE = 256 * 1024  # bytes of the file
EAR_LIFETIME_S = 300
_FIX = "docs/formats/client-policy-v1.md has every key"
_Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="64 hex digits in lower case (32 bytes)")]
_Moment = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
        description='a moment in UTC such as "2027-06-30T00:00:00Z"',
    ),
]

AnyPlatformPolicy = PlatformPolicy | SgxPolicy | SnpPolicy | PcrPolicy | AzurePolicy


class CasPins(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Either `trust`, the path of a cas.json (relative to the policy), or both keys of the CAS in hex."""

    trust: str | None = None
    spki_sha256: _Hex32 | None = None
    audit_public_key: _Hex32 | None = None


class VolumePins(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """roots: accepted ones; empty (key left out) = any. minimum_epoch: lowest accepted epoch."""

    roots: Annotated[tuple[_Hex32, ...], Meta(min_length=1, max_length=256)] = ()
    minimum_epoch: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0


class Service(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which service. manifest_hashes: empty (key left out) = any that the CAS has as current. volumes: name
    to what is accepted; others are not looked at. maximum_age_s: of the attestation result, in seconds.
    """

    session: Annotated[str, Meta(pattern=rf"^{NAME}/{NAME}$", description="tenant/session")]
    workload: Name
    manifest_hashes: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=256)] = ()
    maximum_age_s: Annotated[int, Meta(ge=1, le=EAR_LIFETIME_S)] = EAR_LIFETIME_S
    volumes: dict[Name, VolumePins] = {}


class PolicyFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file as it stands. insecure_simulation: a table whose presence is the consent to be unprotected."""

    version: Annotated[int, Meta(ge=1, le=1)]
    expires: _Moment | None = None
    cas: CasPins
    service: Service
    appraisal: dict[PlatformName, AnyPlatformPolicy] = {}
    insecure_simulation: PlatformPolicy | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CasAnchor:
    """The CAS that the client trusts. spki_sha256: hex. audit_public_key: 32 bytes. simulated: what the trust
    file says, None for pins given by hand."""

    spki_sha256: str
    audit_public_key: bytes
    simulated: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPolicy:
    """A policy ready for use. expires: timezone-aware UTC or None. digest: SHA-256 of the file in hex."""

    cas: CasAnchor
    service: Service
    platforms: dict[str, AnyPlatformPolicy]
    simulation_accepted: bool
    expires: datetime | None
    digest: str


def load_policy(path: Path) -> ClientPolicy:
    """Read a policy file and the trust file that it names.

    Raises:
        ClientPolicyError: not readable, not TOML, a key is unknown or wrong, or keys contradict each other.
        CasIdentityError: the trust file cannot be used.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SIZE + 1)
    except OSError as error:
        raise ClientPolicyError(
            f"the policy {path} cannot be read: {error.strerror}", "name a readable file"
        ) from None
    return parse_policy(raw, directory=path.parent)


def parse_policy(raw: bytes, *, directory: Path) -> ClientPolicy:
    """Read a policy. directory: where a relative `cas.trust` is looked for. Raises as `load_policy`."""
    if len(raw) > MAX_SIZE:
        raise ClientPolicyError(f"the policy is larger than {MAX_SIZE} bytes", "shorten it")
    try:
        tree = tomllib.loads(raw.decode().replace("\r\n", "\n"))
        file = struct(tree, PolicyFile)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClientPolicyError(f"the policy is not TOML in UTF-8: {error}", _FIX) from None
    except ManifestValueError as error:
        fix = error.fix if "reference/manifest" not in error.fix else _FIX
        raise ClientPolicyError(error.problem, fix) from None
    return ClientPolicy(
        cas=_anchor(file.cas, directory),
        service=_service(file.service),
        platforms=_platforms(file),
        simulation_accepted=file.insecure_simulation is not None,
        expires=_moment(file.expires),
        digest=hashlib.sha256(raw).hexdigest(),
    )


def _platforms(
    file: PolicyFile,
) -> dict[str, AnyPlatformPolicy]:
    """Return platform to policy: of hardware, or of a simulation, never of both."""
    appraisal = {str(name): policy for name, policy in file.appraisal.items()}
    if "insecure_simulation" in appraisal:
        raise ClientPolicyError(
            "`appraisal.insecure_simulation` is not how a client accepts a simulation",
            "for a trial with worthless data, write the table [insecure_simulation]",
        )
    if file.insecure_simulation is not None:
        if appraisal:
            raise ClientPolicyError(
                "the policy has [insecure_simulation] beside hardware: a simulation could then pass for it",
                "keep two policies apart, and remove [insecure_simulation] from the one for real data",
            )
        return {"insecure_simulation": file.insecure_simulation}
    if not appraisal:
        raise ClientPolicyError(
            "the policy names no platform, which allows nothing", "add [appraisal.tdx] or another platform"
        )
    return appraisal


def _service(service: Service) -> Service:
    for name, pins in service.volumes.items():
        if not pins.roots and not pins.minimum_epoch:
            raise ClientPolicyError(
                f"`service.volumes.{name}` says nothing",
                "give `roots` or `minimum_epoch`, or remove the table",
            )
    return service


def _anchor(pins: CasPins, directory: Path) -> CasAnchor:
    keys = (pins.spki_sha256, pins.audit_public_key)
    if pins.trust is not None and keys == (None, None):
        try:
            trust = load_trust(directory / pins.trust)
        except CasIdentityError as error:
            raise ClientPolicyError(f"`cas.trust`: {error.problem}", error.fix) from None
        return CasAnchor(
            spki_sha256=trust.spki_sha256,
            audit_public_key=bytes.fromhex(trust.audit_public_key),
            simulated=trust.simulated,
        )
    if pins.trust is not None or pins.spki_sha256 is None or pins.audit_public_key is None:
        raise ClientPolicyError(
            "`cas` names the CAS by neither `trust` alone nor both `spki_sha256` and `audit_public_key`",
            "give `trust`, the file of `securetf cas attest`, or both keys out of it",
        )
    return CasAnchor(
        spki_sha256=pins.spki_sha256,
        audit_public_key=bytes.fromhex(pins.audit_public_key),
        simulated=None,
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ClientPolicyError(f"`expires` is {text}, which is no date", "correct the value") from None
