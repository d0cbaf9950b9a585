"""Challenge and attest: the one way by which a workload receives anything."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import msgspec
from msgspec.structs import replace

from securetf import manifest as manifests
from securetf.appraisal import AttestationResult, appraise_all, ear
from securetf.cas.service import certificates
from securetf.cas.service.access import check_window
from securetf.cas.service.challenges import LIFETIME_S, Challenges
from securetf.cas.service.checks import Checked, check, platform_of
from securetf.cas.service.connection import NO_EXPORTER, Connection
from securetf.cas.service.context import Context, settled
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.members import check_member, enter, renewed
from securetf.cas.service.rows import (
    AuthorityRow,
    Lease,
    MemberRow,
    SecretRow,
    SessionRow,
    find,
    member_key,
    secret_key,
    session_of,
)
from securetf.cas.service.tokens import issue_token
from securetf.cas.service.volumes import raise_epoch, reach, read_grant
from securetf.cas.service.waiting import Waits
from securetf.cas.store import Transaction
from securetf.claims import Evidence, code_register
from securetf.errors import (
    ConflictError,
    ManifestHashError,
    SecuretfError,
    UsageError,
)
from securetf.identity import SpiffeId
from securetf.keys.signature import SignedRequest
from securetf.keys.workload import thumbprint
from securetf.provisioning import NetworkGrant, Provision, VolumeGrant, seal
from securetf.verifier import verify_composite
from securetf.wire import (
    AttestRequest,
    AttestResponse,
    ChallengeRequest,
    ChallengeResponse,
    RenewRequest,
    RenewResponse,
    TokenRequest,
    TokenResponse,
)


@dataclass(frozen=True, slots=True)
class _Entered:
    """A member as it was written; authority: None when it gets no certificate."""

    member: MemberRow
    authority: AuthorityRow | None


class Attestation:
    """What workloads do. `waits`: how the caller waits for what takes long; nothing else of it is slow."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._challenges = Challenges(context.clock)
        self._token_key = ear.SigningKey.of(context.identity.token_key)

    def challenge(self, request: ChallengeRequest, connection: Connection = NO_EXPORTER) -> ChallengeResponse:
        """Return a nonce; says nothing about whether the session exists. Raises BindingError: no exporter."""
        exporter = connection.exporter(request.binding)
        nonce = self._challenges.issue(request.session, request.workload, request.instance, exporter)
        return ChallengeResponse(nonce=nonce, expires_in_s=LIFETIME_S)

    async def attest(
        self,
        request: AttestRequest,
        draft: AuditDraft,
        waits: Waits,
        connection: Connection = NO_EXPORTER,
    ) -> AttestResponse:
        """Check cheaply, take the nonce, verify, appraise, and release; the first that fails decides.

        Raises:
            NotFoundError, ManifestHashError, PlatformNotAllowedError, SimulationRefusedError: the request
            cannot succeed. NonceError: stale. EvidenceError, AppraisalError: not proved. ConflictError: state
            does not fit.
        """
        _describe(draft, request)
        started = time.perf_counter_ns()
        try:
            checked = check(self._context, request, connection)
            draft.actor = f"p256:{thumbprint(checked.tls_key)}"
            verified, results = await self._prove(request, checked, draft, waits)
        except SecuretfError as error:
            await waits.elsewhere(partial(self._context.record_refusal, draft, error))
            raise
        appraised = time.perf_counter_ns()
        response = await self._release(request, checked, results, draft, waits)
        released = time.perf_counter_ns()
        response.timings_us.update(
            verify=(verified - started) // 1000,
            appraise=(appraised - verified) // 1000,
            release=(released - appraised) // 1000,
        )
        return response

    async def renew(
        self,
        signed: SignedRequest,
        request: RenewRequest,
        draft: AuditDraft,
        waits: Waits,
        connection: Connection = NO_EXPORTER,
    ) -> RenewResponse:
        """Attest a member again for its next certificate; nothing else is released, no epoch is raised.

        Raises:
            As `attest`. NotFoundError, FencedError, NotAuthorisedError: not the current member's request.
        """
        checked, _ = await self._again(signed, request, draft, waits, connection, certificate=True)
        now = self._context.clock.now()

        def operation(transaction: Transaction) -> _Entered:
            session = _still_current(transaction, checked)
            authority, end = self._term(transaction, checked, now)
            row = renewed(transaction, session, request, signed, now=now, expires_at=end)
            draft.released = ["certificate"]
            draft.details["generation"] = str(row.generation)
            return _Entered(row, authority)

        entered = settled(await waits.done(self._context.begin(draft, operation)))
        grant = self._certificate(checked, entered, now)
        return RenewResponse(**msgspec.structs.asdict(grant))

    async def refresh(
        self,
        signed: SignedRequest,
        request: TokenRequest,
        draft: AuditDraft,
        waits: Waits,
        connection: Connection = NO_EXPORTER,
    ) -> TokenResponse:
        """Attest a member again for its next token; nothing is released, its certificate stays.

        Raises:
            As `renew`.
        """
        checked, results = await self._again(signed, request, draft, waits, connection, certificate=False)
        now = self._context.clock.now()
        token = issue_token(self._context.identity, self._token_key, request, results, checked.tls_key)

        def operation(transaction: Transaction) -> MemberRow:
            session = _still_current(transaction, checked)
            row = renewed(transaction, session, request, signed, now=now, expires_at=None)
            draft.released = ["token"]
            draft.details["generation"] = str(row.generation)
            token.note(draft)
            return row

        settled(await waits.done(self._context.begin(draft, operation)))
        return TokenResponse(token=token.text)

    async def _again(
        self,
        signed: SignedRequest,
        request: AttestRequest,
        draft: AuditDraft,
        waits: Waits,
        connection: Connection,
        *,
        certificate: bool,
    ) -> tuple[Checked, Sequence[AttestationResult]]:
        """Check a member's request, and what it proves, once more; refusals are recorded."""
        _describe(draft, request)
        try:
            draft.actor = signed.key_id
            check_window(self._context, signed)
            checked = check(self._context, request, connection)
            if certificate != (checked.network_key is not None):
                what = "a renewal without" if certificate else "a request for a token with"
                raise UsageError(f"{what} network key", "use the call that fits: renew, or token")
            member = find(
                self._context.store,
                MemberRow,
                member_key(request.session, request.workload, request.instance),
            )
            check_member(checked.session, member, signed, request.workload, request.instance)
            return checked, (await self._prove(request, checked, draft, waits))[1]
        except SecuretfError as error:
            await waits.elsewhere(partial(self._context.record_refusal, draft, error))
            raise

    async def _prove(
        self, request: AttestRequest, checked: Checked, draft: AuditDraft, waits: Waits
    ) -> tuple[int, Sequence[AttestationResult]]:
        self._challenges.consume(
            request.nonce, request.session, request.workload, request.instance, checked.exporter
        )
        now = self._context.clock.now()
        expected = hashlib.sha512(checked.transcript).digest()
        others = tuple(
            Evidence(platform_of(self._context, name), raw) for name, raw in request.submods.items()
        )
        claims = await waits.elsewhere(
            partial(
                verify_composite,
                Evidence(checked.platform, request.evidence, others),
                verifiers=self._context.verifiers,
                expected_report_data=expected,
                now=now,
            )
        )
        verified = time.perf_counter_ns()
        draft.measurement = claims[0].measurement.hex()
        draft.details |= {f"beside:{one.platform.value}": one.measurement.hex() for one in claims[1:]}
        results = appraise_all(
            claims,
            policies={str(name): policy for name, policy in checked.manifest.appraisal.items()},
            require=checked.manifest.require,
            rtmr3=code_register(manifests.code_roots(checked.manifest, request.workload)),
            now=now,
        )
        return verified, results

    async def _release(
        self,
        request: AttestRequest,
        checked: Checked,
        results: Sequence[AttestationResult],
        draft: AuditDraft,
        waits: Waits,
    ) -> AttestResponse:
        context = self._context
        now = context.clock.now()
        lease = Lease(
            key_id=draft.actor,
            spki=request.tls_spki,
            holder=f"workload {request.workload}/{request.instance} {draft.actor}",
        )
        token = issue_token(context.identity, self._token_key, request, results, checked.tls_key)

        def operation(transaction: Transaction) -> tuple[Provision, _Entered]:
            session = _still_current(transaction, checked)
            provision = _provision(transaction, session, request, checked, lease, draft)
            authority, end = self._term(transaction, checked, now)
            row = enter(transaction, session, request, key_id=draft.actor, now=now, expires_at=end)
            draft.details["generation"] = str(row.generation)
            if request.endpoint is not None:
                draft.details["endpoint"] = request.endpoint
            if checked.network_key is not None:
                draft.released.append("certificate")
            token.note(draft)
            return provision, _Entered(row, authority)

        provision, entered = settled(await waits.done(context.begin(draft, operation)))
        for grant in provision.volumes:
            if grant.freshness == "follow" and not grant.writable:
                context.leases.told(grant.volume_id, grant.seq, context.clock.monotonic_s())
        if checked.network_key is not None:
            provision = replace(provision, network=self._certificate(checked, entered, now))
        sealed = seal(provision, checked.hpke_key, checked.transcript)
        return AttestResponse(token=token.text, sealed_provision=sealed, timings_us={})

    def _spiffe_id(self, session: SessionRow, member: MemberRow) -> SpiffeId:
        domain = self._context.identity.spki_sha256
        return SpiffeId(domain, session.name, member.workload, member.instance)

    def _term(
        self, transaction: Transaction, checked: Checked, now: datetime
    ) -> tuple[AuthorityRow | None, int]:
        """Return the authority and the end of a certificate from now on; None and 0 when none is wanted."""
        if checked.network_key is None:
            return None, 0
        domain = self._context.identity.spki_sha256
        row = certificates.authority(transaction, checked.session.name, trust_domain=domain, now=now)
        lifetime_s = checked.manifest.network.certificate_lifetime_s
        return row, certificates.not_after(row, lifetime_s=lifetime_s, now=now)

    def _certificate(self, checked: Checked, entered: _Entered, now: datetime) -> NetworkGrant:
        """Sign the certificate that the transaction decided on; outside of it, since that takes a while."""
        if checked.network_key is None or entered.authority is None:
            raise AssertionError("decided without a network key")
        member = entered.member
        leaf = certificates.issue(
            entered.authority,
            spiffe_id=self._spiffe_id(checked.session, member),
            key=checked.network_key,
            manifest_hash=member.manifest_hash,
            generation=member.generation,
            now=now,
            end=member.expires_at,
        )
        return NetworkGrant(
            trust_domain=self._context.identity.spki_sha256,
            chain=[leaf],
            trust_root=entered.authority.certificate,
            not_after=member.expires_at,
            lifetime_s=member.expires_at - int(now.timestamp()),
        )


def _describe(draft: AuditDraft, request: AttestRequest) -> None:
    draft.session, draft.workload, draft.instance = request.session, request.workload, request.instance
    draft.platform = request.platform[:32]
    draft.manifest_hash = f"sha256:{request.manifest_hash.hex()}"


def _still_current(transaction: Transaction, checked: Checked) -> SessionRow:
    """Return the session as it is now. Raises ManifestHashError when its Manifest was replaced meanwhile."""
    session = session_of(transaction, checked.session.name)
    if session.manifest_hash != checked.session.manifest_hash:
        raise ManifestHashError(
            f"the Manifest of {session.name} was replaced while the workload attested",
            "start it with the current Manifest: `securetf session show`",
        )
    return session


def _provision(
    transaction: Transaction,
    session: SessionRow,
    request: AttestRequest,
    checked: Checked,
    lease: Lease,
    draft: AuditDraft,
) -> Provision:
    """Decide what is released; raises the epochs of volumes that the workload may write."""
    manifest = checked.manifest
    workload = manifest.workloads[request.workload]
    grants: list[VolumeGrant] = []
    mounts = manifests.mounts(manifest, request.workload, request.instance)
    for name, (path, writable) in sorted(mounts.items()):
        session, volume, rule = reach(transaction, session, manifest, name)
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
