"""The calls of `/v1` as one table: routing, decoding, signatures and the OpenAPI document come from it."""

from concurrent.futures import Future

from securetf.cas.http.call import Call, Incoming, Signed, message_of, signature_of, volume_id_of
from securetf.cas.http.rekeying_calls import REKEYING_CALLS
from securetf.cas.http.restoring_calls import RESTORING_CALLS
from securetf.cas.service import AuditDraft
from securetf.cas.service.context import Refused
from securetf.cas.service.waiting import Waits
from securetf.errors import UsageError
from securetf.keys.signature import SignedRequest, is_owner_key_id
from securetf.wire import (
    Advanced,
    AdvanceRequest,
    AttestRequest,
    AttestResponse,
    AuditPage,
    CasEvidenceRequest,
    CasEvidenceResponse,
    ChallengeRequest,
    ChallengeResponse,
    DenialReport,
    Done,
    GrantRequest,
    LeaveRequest,
    MembersView,
    RenewRequest,
    RenewResponse,
    SealedResponse,
    SecretImportRequest,
    SessionCreateRequest,
    SessionHistory,
    SessionUpdateRequest,
    SessionView,
    StatusResponse,
    TokenKey,
    TokenRequest,
    TokenResponse,
)
from securetf.wire.messages import Message

_SESSION = "/v1/sessions/{tenant}/{name}"


def _status(incoming: Incoming) -> Message:
    return incoming.service.status()


def _evidence(incoming: Incoming) -> Message:
    return incoming.service.evidence(message_of(incoming, CasEvidenceRequest), incoming.connection)


def _challenge(incoming: Incoming) -> Message:
    return incoming.service.attestation.challenge(message_of(incoming, ChallengeRequest), incoming.connection)


async def _attest(incoming: Incoming, waits: Waits) -> Message:
    return await incoming.service.attestation.attest(
        message_of(incoming, AttestRequest), incoming.draft, waits, incoming.connection
    )


async def _renew(incoming: Incoming, waits: Waits) -> Message:
    request = message_of(incoming, RenewRequest)
    return await incoming.service.attestation.renew(
        signature_of(incoming), request, incoming.draft, waits, incoming.connection
    )


async def _token(incoming: Incoming, waits: Waits) -> Message:
    request = message_of(incoming, TokenRequest)
    return await incoming.service.attestation.refresh(
        signature_of(incoming), request, incoming.draft, waits, incoming.connection
    )


def _keys(incoming: Incoming) -> Message:
    return incoming.service.keys()


def _members(incoming: Incoming) -> Message:
    members, signed = incoming.service.members, signature_of(incoming)
    if is_owner_key_id(signed.key_id):
        return members.of_owner(incoming.owner(), incoming.draft, incoming.session)
    workload, number = incoming.query.get("workload", ""), incoming.query.get("instance", "")
    if (
        not number.isascii()
        or not number.isdigit()
        or len(number) > 5
        or int(number) > 65535
        or len(workload) > 64
    ):
        raise UsageError("a member names itself: ?workload=NAME&instance=NUMBER", "add both to the request")
    return members.of_member(signed, incoming.draft, incoming.session, workload, int(number))


def _denials(incoming: Incoming) -> Message:
    report = message_of(incoming, DenialReport)
    incoming.service.members.denials(signature_of(incoming), incoming.draft, incoming.session, report)
    return Done()


def _leave(incoming: Incoming) -> Message:
    request = message_of(incoming, LeaveRequest)
    incoming.service.members.leave(signature_of(incoming), incoming.draft, incoming.session, request)
    return Done()


def _create(incoming: Incoming) -> Message:
    text = message_of(incoming, SessionCreateRequest).manifest
    return incoming.service.sessions.create(incoming.owner(), incoming.draft, text)


def _read(incoming: Incoming) -> Message:
    return incoming.service.sessions.read(incoming.owner(), incoming.draft, incoming.session)


def _update(incoming: Incoming) -> Message:
    text = message_of(incoming, SessionUpdateRequest).manifest
    return incoming.service.sessions.update(incoming.owner(), incoming.draft, incoming.session, text)


def _history(incoming: Incoming) -> Message:
    return incoming.service.sessions.history(incoming.owner(), incoming.draft, incoming.session)


def _packing_grant(incoming: Incoming) -> Message:
    public = message_of(incoming, GrantRequest).hpke_public_key
    volumes, volume = incoming.service.volumes, incoming.parameters["volume"]
    return SealedResponse(
        sealed=volumes.packing_grant(incoming.owner(), incoming.draft, incoming.session, volume, public)
    )


def _export_grant(incoming: Incoming) -> Message:
    public = message_of(incoming, GrantRequest).hpke_public_key
    volumes, volume = incoming.service.volumes, incoming.parameters["volume"]
    return SealedResponse(
        sealed=volumes.export_grant(incoming.owner(), incoming.draft, incoming.session, volume, public)
    )


def _import_secret(incoming: Incoming) -> Message:
    sealed = message_of(incoming, SecretImportRequest).sealed
    secret = incoming.parameters["secret"]
    incoming.service.secrets.put(incoming.owner(), incoming.draft, incoming.session, secret, sealed)
    return Done()


def _advance(incoming: Incoming) -> Message:
    incoming.service.volumes.advance(*_advance_arguments(incoming))
    return _advanced(incoming)


def _advanced(incoming: Incoming) -> Message:
    _, _, volume_id, request = _advance_arguments(incoming)
    return incoming.service.volumes.advanced(volume_id, request)


def _begin_advance(incoming: Incoming) -> "Future[Refused | None]":
    return incoming.service.volumes.begin_advance(*_advance_arguments(incoming))


def _advance_arguments(incoming: Incoming) -> tuple[SignedRequest, AuditDraft, bytes, AdvanceRequest]:
    signed, request = signature_of(incoming), message_of(incoming, AdvanceRequest)
    return signed, incoming.draft, volume_id_of(incoming), request


def _audit(incoming: Incoming) -> Message:
    first = incoming.query.get("first", "0")
    if not first.isascii() or not first.isdigit() or len(first) > 18:
        raise UsageError(f"first={first[:32]!r} is not a number", "give the number of the first entry")
    return incoming.service.audit.page(incoming.owner(), incoming.draft, incoming.session, int(first))


CALLS = (
    Call(
        action="status",
        method="GET",
        path="/v1/status",
        summary="Whether the CAS is ready.",
        response=StatusResponse,
        handler=_status,
        inline=True,
    ),
    Call(
        action="evidence",
        method="POST",
        path="/v1/evidence",
        summary="The CAS's own Evidence for the caller's nonce, bound to its TLS key.",
        request=CasEvidenceRequest,
        response=CasEvidenceResponse,
        handler=_evidence,
    ),
    Call(
        action="keys",
        method="GET",
        path="/v1/keys",
        summary="The key that attestation tokens are signed with, signed by the audit key.",
        response=TokenKey,
        handler=_keys,
        inline=True,
    ),
    Call(
        action="challenge",
        method="POST",
        path="/v1/challenge",
        summary="A nonce for one attestation.",
        request=ChallengeRequest,
        response=ChallengeResponse,
        handler=_challenge,
        inline=True,
    ),
    Call(
        action="attest",
        method="POST",
        path="/v1/attest",
        summary="Evidence in, attestation token and sealed Provision out.",
        request=AttestRequest,
        response=AttestResponse,
        steps=_attest,
    ),
    Call(
        action="renew",
        method="POST",
        path="/v1/renew",
        summary="Evidence in, the member's next certificate out.",
        request=RenewRequest,
        response=RenewResponse,
        steps=_renew,
        signed=Signed.MEMBER,
    ),
    Call(
        action="token",
        method="POST",
        path="/v1/token",
        summary="Evidence in, the member's next attestation token out.",
        request=TokenRequest,
        response=TokenResponse,
        steps=_token,
        signed=Signed.MEMBER,
    ),
    Call(
        action="members",
        method="GET",
        path=f"{_SESSION}/members",
        summary="Who attested when as what, who is missing, and for a member TF_CONFIG.",
        response=MembersView,
        handler=_members,
        signed=Signed.OWNER_OR_MEMBER,
        query=("workload", "instance"),
    ),
    Call(
        action="leave",
        method="POST",
        path=f"{_SESSION}/leave",
        summary="A member's program has ended: nobody counts on this instance any more.",
        request=LeaveRequest,
        response=Done,
        handler=_leave,
        signed=Signed.MEMBER,
    ),
    Call(
        action="network.denied",
        method="POST",
        path=f"{_SESSION}/denials",
        summary="What a member's network shield refused, for the audit log.",
        request=DenialReport,
        response=Done,
        handler=_denials,
        signed=Signed.MEMBER,
    ),
    Call(
        action="session.create",
        method="POST",
        path="/v1/sessions",
        summary="The first version of a session.",
        request=SessionCreateRequest,
        response=SessionView,
        handler=_create,
        signed=Signed.OWNER,
    ),
    Call(
        action="session.read",
        method="GET",
        path=_SESSION,
        summary="The current version, and where its volumes stand.",
        response=SessionView,
        handler=_read,
        signed=Signed.OWNER,
    ),
    Call(
        action="session.update",
        method="PUT",
        path=_SESSION,
        summary="The next version of a session.",
        request=SessionUpdateRequest,
        response=SessionView,
        handler=_update,
        signed=Signed.OWNER,
    ),
    Call(
        action="session.history",
        method="GET",
        path=_SESSION + "/history",
        summary="All versions: hashes, who signed, when.",
        response=SessionHistory,
        handler=_history,
        signed=Signed.OWNER,
    ),
    Call(
        action="volume.packing-grant",
        method="POST",
        path=_SESSION + "/volumes/{volume}/packing-grant",
        summary="The right to write a volume that no workload writes; sealed. Fences the writer before.",
        request=GrantRequest,
        response=SealedResponse,
        handler=_packing_grant,
        signed=Signed.OWNER,
    ),
    Call(
        action="volume.export-grant",
        method="POST",
        path=_SESSION + "/volumes/{volume}/export-grant",
        summary="The right to read a volume as it stands; sealed.",
        request=GrantRequest,
        response=SealedResponse,
        handler=_export_grant,
        signed=Signed.OWNER,
    ),
    Call(
        action="secret.import",
        method="PUT",
        path=_SESSION + "/secrets/{secret}",
        summary="The value of a secret, sealed to the CAS.",
        request=SecretImportRequest,
        response=Done,
        handler=_import_secret,
        signed=Signed.OWNER,
    ),
    Call(
        action="audit.read",
        method="GET",
        path=_SESSION + "/audit",
        summary="Audit entries from `first` on, and the signed head.",
        response=AuditPage,
        handler=_audit,
        signed=Signed.OWNER,
        query=("first",),
    ),
    Call(
        action="volume.advance",
        method="POST",
        path="/v1/volumes/{volume_id}/advance",
        summary="Compare-and-swap of a volume's state.",
        request=AdvanceRequest,
        response=Advanced,
        handler=_advance,
        begin=_begin_advance,
        done=_advanced,
        signed=Signed.LEASE_HOLDER,
    ),
    *REKEYING_CALLS,
    *RESTORING_CALLS,
)
