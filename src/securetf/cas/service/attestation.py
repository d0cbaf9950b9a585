"""Challenge and attest: the one way by which a workload receives anything."""

import os
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from securetf import manifest as manifests
from securetf.appraisal import AttestationResult, appraise, ear
from securetf.cas.service.challenges import LIFETIME_S, Challenges
from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.rows import Lease, SecretRow, SessionRow, find, secret_key, session_of, volume_of
from securetf.cas.service.volumes import raise_epoch, read_grant
from securetf.cas.store import Transaction
from securetf.claims import Evidence, Platform, code_register
from securetf.errors import (
    ConflictError,
    ManifestHashError,
    NotFoundError,
    PlatformNotAllowedError,
    SecuretfError,
    UnsupportedPlatformError,
)
from securetf.evidence import binding
from securetf.identity import SpiffeId
from securetf.keys.workload import public_key, thumbprint
from securetf.manifest import Manifest
from securetf.provisioning import Provision, VolumeGrant, check_public_key, seal
from securetf.verifier import verify
from securetf.wire import AttestRequest, AttestResponse, ChallengeRequest, ChallengeResponse


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the cheap checks found."""

    session: SessionRow
    manifest: Manifest
    platform: Platform
    tls_key: EllipticCurvePublicKey


class Attestation:
    """What workloads do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._challenges = Challenges(context.clock)

    def challenge(self, request: ChallengeRequest) -> ChallengeResponse:
        """Return a nonce; says nothing about whether the session exists."""
        nonce = self._challenges.issue(request.session, request.workload, request.instance)
        return ChallengeResponse(nonce=nonce, expires_in_s=LIFETIME_S)

    def attest(self, request: AttestRequest, draft: AuditDraft) -> AttestResponse:
        """Check cheaply, take the nonce, verify, appraise, and release; the first that fails decides.

        Raises:
            NotFoundError, ManifestHashError, PlatformNotAllowedError, SimulationRefusedError: the request
            cannot succeed. NonceError: stale. EvidenceError, AppraisalError: not proved. ConflictError: state
            does not fit.
        """
        draft.session, draft.workload, draft.instance = request.session, request.workload, request.instance
        draft.platform = request.platform[:32]
        draft.manifest_hash = f"sha256:{request.manifest_hash.hex()}"
        started = time.perf_counter_ns()
        try:
            checked = self._check(request)
            draft.actor = f"p256:{thumbprint(checked.tls_key)}"
            self._challenges.consume(request.nonce, request.session, request.workload, request.instance)
            verified, result = self._prove(request, checked, draft)
        except SecuretfError as error:
            self._context.record_refusal(draft, error)
            raise
        appraised = time.perf_counter_ns()
        response = self._release(request, checked, result, draft)
        released = time.perf_counter_ns()
        response.timings_us.update(
            verify=(verified - started) // 1000,
            appraise=(appraised - verified) // 1000,
            release=(released - appraised) // 1000,
        )
        return response

    def _check(self, request: AttestRequest) -> _Checked:
        context = self._context
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
        platform = self._platform(request.platform)
        if platform.value not in manifest.appraisal:
            raise PlatformNotAllowedError(
                f"the Manifest of {session.name} has no `[appraisal.{platform.value}]`",
                "add Reference Values for this platform, or run the workload on one that the Manifest names",
            )
        check_public_key(request.hpke_public_key)
        return _Checked(session, manifest, platform, public_key(request.tls_spki))

    def _platform(self, name: str) -> Platform:
        try:
            return Platform(name)
        except ValueError:
            raise UnsupportedPlatformError(
                f"{name[:32]!r} is not a platform that this CAS knows",
                "use one of "
                f"{', '.join(sorted(self._context.verifiers)) or 'none: no verifier is configured'}",
            ) from None

    def _prove(
        self, request: AttestRequest, checked: _Checked, draft: AuditDraft
    ) -> tuple[int, AttestationResult]:
        now = self._context.clock.now()
        expected = binding.report_data(
            role=binding.Role.WORKLOAD,
            nonce=request.nonce,
            tls_spki=request.tls_spki,
            hpke_public_key=request.hpke_public_key,
            cas_spki=self._context.identity.spki,
            exporter=None,
            manifest_hash=request.manifest_hash,
        )
        claims = verify(
            Evidence(checked.platform, request.evidence),
            verifiers=self._context.verifiers,
            expected_report_data=expected,
            now=now,
        )
        verified = time.perf_counter_ns()
        draft.measurement = claims.measurement.hex()
        result = appraise(
            claims,
            policy={str(name): policy for name, policy in checked.manifest.appraisal.items()}.get(
                checked.platform.value
            ),
            rtmr3=code_register(manifests.code_roots(checked.manifest, request.workload)),
            now=now,
        )
        return verified, result

    def _release(
        self, request: AttestRequest, checked: _Checked, result: AttestationResult, draft: AuditDraft
    ) -> AttestResponse:
        context, identity = self._context, self._context.identity
        lease = Lease(
            key_id=draft.actor,
            spki=request.tls_spki,
            holder=f"workload {request.workload}/{request.instance} {draft.actor}",
        )
        provision = context.decide(
            draft, lambda transaction: _provision(transaction, request, checked, lease, draft)
        )
        transcript = binding.transcript(
            role=binding.Role.WORKLOAD,
            nonce=request.nonce,
            tls_spki=request.tls_spki,
            hpke_public_key=request.hpke_public_key,
            cas_spki=identity.spki,
            exporter=None,
            manifest_hash=request.manifest_hash,
        )
        trust_domain = identity.spki_sha256
        token = ear.issue(
            result,
            key=identity.token_key,
            issuer=f"securetf-cas:{identity.spki_sha256}",
            audience=f"securetf-session:{request.session}",
            subject=str(SpiffeId(trust_domain, request.session, request.workload, request.instance)),
            nonce=request.nonce,
            confirmation_jwk=ear.confirmation_jwk(checked.tls_key),
            binding=ear.Binding.KEY,
            token_id=os.urandom(16).hex(),
            now=result.appraised_at,
        )
        sealed = seal(provision, request.hpke_public_key, transcript)
        return AttestResponse(token=token, sealed_provision=sealed, timings_us={})


def _provision(
    transaction: Transaction, request: AttestRequest, checked: _Checked, lease: Lease, draft: AuditDraft
) -> Provision:
    """Decide what is released; raises the epochs of volumes that the workload may write."""
    session = session_of(transaction, request.session)
    if session.manifest_hash != checked.session.manifest_hash:
        raise ManifestHashError(
            f"the Manifest of {session.name} was replaced while the workload attested",
            "start it with the current Manifest: `securetf session show`",
        )
    manifest = checked.manifest
    workload = manifest.workloads[request.workload]
    grants: list[VolumeGrant] = []
    for name, (path, writable) in sorted(manifests.mounts(workload).items()):
        volume, rule = volume_of(transaction, session, name), manifest.volumes[name]
        if writable:
            grants.append(raise_epoch(transaction, volume, lease, rule, path))
        else:
            grants.append(read_grant(volume, rule, path))
        draft.details[f"volume:{name}"] = f"{grants[-1].epoch}/{grants[-1].seq}/{grants[-1].root.hex()}"
    secrets = {}
    for name in sorted(workload.secrets):
        row = find(transaction, SecretRow, secret_key(session.name, name))
        if row is None:
            raise ConflictError(
                f"secret {name} of {session.name} has no value yet",
                f"import it: `securetf secret import --session {session.name} --secret {name}`",
            )
        secrets[name] = row.value
    draft.released = [
        *(f"volume-key:{grant.name}:{'rw' if grant.writable else 'ro'}" for grant in grants),
        *(f"secret:{name}" for name in secrets),
    ]
    return Provision(
        session=session.name,
        workload=request.workload,
        instance=request.instance,
        manifest_hash=session.manifest_hash,
        volumes=grants,
        secrets=secrets,
    )
