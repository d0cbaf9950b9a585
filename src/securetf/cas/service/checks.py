"""What is checked of a request to attest before any Evidence is looked at."""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from securetf.cas.service.connection import Connection
from securetf.cas.service.context import Context
from securetf.cas.service.members import check_endpoint
from securetf.cas.service.rows import SessionRow, session_of
from securetf.claims import Platform
from securetf.errors import (
    BindingError,
    ManifestHashError,
    NotFoundError,
    PlatformNotAllowedError,
    UnsupportedPlatformError,
)
from securetf.evidence import binding
from securetf.keys.workload import public_key
from securetf.manifest import Manifest
from securetf.provisioning import HpkePublicKey, public_key_of
from securetf.wire import AttestRequest


@dataclass(frozen=True, slots=True)
class Checked:
    """What the cheap checks found. network_key: None when no certificate is asked for.

    exporter: of the request's connection; None where the attestation is bound to keys alone. transcript: what
    the Evidence must be bound to.
    """

    session: SessionRow
    manifest: Manifest
    platform: Platform
    tls_key: EllipticCurvePublicKey
    network_key: EllipticCurvePublicKey | None
    hpke_key: HpkePublicKey
    exporter: bytes | None
    transcript: bytes


def check(context: Context, request: AttestRequest, connection: Connection) -> Checked:
    """Check what needs no Evidence.

    Raises:
        NotFoundError, ManifestHashError, PlatformNotAllowedError, UnsupportedPlatformError, BindingError,
        UnsealError: the request does not fit the session.
    """
    session = session_of(context.store, request.session)
    manifest = context.manifest_of(session)
    if request.manifest_hash != session.manifest_hash:
        raise ManifestHashError(
            f"the workload was given Manifest sha256:{request.manifest_hash.hex()}, current in "
            f"{session.name} is "
            f"sha256:{session.manifest_hash.hex()}",
            "start it with the current Manifest: `securetf session show`",
        )
    if request.workload not in manifest.workloads:
        raise NotFoundError(
            f"{session.name} has no workload {request.workload}",
            "name one of `[workloads]` in the Manifest",
        )
    maximum = manifest.workloads[request.workload].instances.maximum
    if request.instance >= maximum:
        raise NotFoundError(
            f"{session.name} has no instance {request.instance} of {request.workload}, only 0 to "
            f"{maximum - 1}",
            "name one of these, or raise `instances.maximum` in the Manifest",
        )
    platform = platform_of(context, request.platform)
    if platform.value not in manifest.appraisal:
        raise PlatformNotAllowedError(
            f"the Manifest of {session.name} has no `[appraisal.{platform.value}]`",
            "add Reference Values for this platform, or run the workload on one that the Manifest names",
        )
    if manifest.binding == "session" and request.binding != "session":
        raise BindingError(
            f"the Manifest of {session.name} demands `binding: session`, the attestation binds keys alone",
            "attest over a connection whose TLS exporter both sides have, as `securetf run` does",
        )
    hpke_key = public_key_of(request.hpke_public_key)
    check_endpoint(request.endpoint)
    network_key = None if request.network_spki is None else public_key(request.network_spki)
    if request.network_spki == request.tls_spki:
        raise BindingError("network key and attested TLS key are the same", "make two key pairs")
    exporter = connection.exporter(request.binding)
    return Checked(
        session=session,
        manifest=manifest,
        platform=platform,
        tls_key=public_key(request.tls_spki),
        network_key=network_key,
        hpke_key=hpke_key,
        exporter=exporter,
        transcript=_transcript(context, request, exporter),
    )


def _transcript(context: Context, request: AttestRequest, exporter: bytes | None) -> bytes:
    return binding.transcript(
        role=binding.Role.WORKLOAD,
        nonce=request.nonce,
        tls_spki=request.tls_spki,
        hpke_public_key=request.hpke_public_key,
        cas_spki=context.identity.spki,
        exporter=exporter,
        manifest_hash=request.manifest_hash,
        network_spki=request.network_spki,
    )


def platform_of(context: Context, name: str) -> Platform:
    """Return the platform of a name.

    Raises:
        UnsupportedPlatformError: there is none.
    """
    try:
        return Platform(name)
    except ValueError:
        raise UnsupportedPlatformError(
            f"{name[:32]!r} is not a platform that this CAS knows",
            f"use one of {', '.join(sorted(context.verifiers)) or 'none: no verifier is configured'}",
        ) from None
