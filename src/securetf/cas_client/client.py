"""Requests to a CAS: each is sent only after the CAS's key has been compared with the pinned one."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from securetf import manifest as manifests
from securetf.attester import Attester
from securetf.cas_client.answers import decode_answer, refusal_of
from securetf.cas_client.membership import (
    AttestedKeys,
    Denial,
    Who,
    attest_fields,
    check_network,
    check_proof,
    check_provision,
    denial_reports,
    segment,
    session_path,
)
from securetf.cas_client.transport import Line, Transport
from securetf.cas_client.trust import CasTrust
from securetf.errors import UsageError
from securetf.evidence.binding import EXPORTER_LABEL
from securetf.keys.owner import OwnerKey
from securetf.keys.signature import NONCE_BYTES, Signer, sign
from securetf.keys.workload import WorkloadKey
from securetf.manifest import Manifest
from securetf.provisioning import (
    HpkeKeyPair,
    NetworkGrant,
    Provision,
    VolumeGrant,
    grant_transcript,
    open_grant,
    open_sealed,
    seal_secret,
    secret_transcript,
)
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
    encode,
)
from securetf.wire.audit import check_head
from securetf.wire.messages import Message
from securetf.wire.statement import CasProof

_M = TypeVar("_M", bound=Message)
_OK = 200


class CasClient:
    """One CAS, verified before (`CasTrust`). Thread-safe; keeps connections alive; use as a context manager.

    Each call raises CasUnreachableError, CasIdentityError, CasProtocolError, or the error that the CAS
    answered with, as the same class of `securetf.errors`.
    """

    def __init__(self, trust: CasTrust, *, deadline_s: float = 10.0) -> None:
        self.trust = trust
        self._transport = Transport(trust.url, trust.spki_sha256, deadline_s=deadline_s)
        self._writers: dict[bytes, Signer] = {}  # volume id → who holds its lease through this client
        self._member: dict[str, tuple[Who, AttestedKeys]] = {}  # session → what this client provisioned
        self._lock = threading.Lock()

    def __enter__(self) -> "CasClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def status(self) -> StatusResponse:
        """Ask whether the CAS is ready."""
        return self._call("GET", "/v1/status", None, StatusResponse, repeatable=True)

    def ask(
        self, target: str, message: Message | None, answer: type[_M], *, signer: Signer | None = None
    ) -> _M:
        """Send a call without a method here; one that nobody signs is repeated if its answer is lost."""
        return self._call("POST", target, message, answer, signer=signer, repeatable=signer is None)

    def create_session(self, manifest_text: str, owner_key: OwnerKey) -> SessionView:
        """Submit the first version (TOML text); the key becomes `creator`. The CAS makes keys and secrets."""
        return self._call(
            "POST",
            "/v1/sessions",
            SessionCreateRequest(manifest=manifest_text),
            SessionView,
            signer=owner_key,
        )

    def update_session(self, manifest_text: str, owner_key: OwnerKey) -> SessionView:
        """Submit the next version; it names the current hash as predecessor."""
        target = session_path(manifests.parse(manifest_text).session.name)
        message = SessionUpdateRequest(manifest=manifest_text)
        return self._call("PUT", target, message, SessionView, signer=owner_key)

    def read_session(self, session: str, owner_key: OwnerKey) -> SessionView:
        """Read the current version and the states of its volumes."""
        return self._call("GET", session_path(session), None, SessionView, signer=owner_key)

    def history(self, session: str, owner_key: OwnerKey) -> SessionHistory:
        """Read the chain of versions."""
        return self._call("GET", f"{session_path(session)}/history", None, SessionHistory, signer=owner_key)

    def packing_grant(self, session: str, volume: str, owner_key: OwnerKey) -> VolumeGrant:
        """Become the writer of a volume: raises its epoch, fences the writer before. Later `advance` calls of
        this client for the volume are signed by `owner_key`."""
        grant = self._grant("packing", session, volume, owner_key)
        with self._lock:
            self._writers[grant.volume_id] = owner_key
        return grant

    def export_grant(self, session: str, volume: str, owner_key: OwnerKey) -> VolumeGrant:
        """Take the key of a volume out for reading: for keys that the Manifest's `export` names, and for
        those that may pack a volume without a writer."""
        return self._grant("export", session, volume, owner_key)

    def advance(
        self, volume_id: bytes, *, epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes
    ) -> int:
        """Move a volume's state by compare-and-swap; once that is durable and anchored, return for how many
        seconds readers have leases on the states before. Thread-safe. A lost answer is asked for again, once.

        Raises:
            FencedError: the epoch is not current, or another key holds the lease: stop writing.
            ConflictError: (seq, root) is not the current state.
        """
        signer = self.writer_of(volume_id)
        message = AdvanceRequest(epoch=epoch, seq=seq, root=root, new_seq=new_seq, new_root=new_root)
        target = f"/v1/volumes/{volume_id.hex()}/advance"
        return self._call("POST", target, message, Advanced, signer=signer, repeatable=True).leased_s

    def writer_of(self, volume_id: bytes) -> Signer:
        """Return who holds the lease of a volume through this client. Raises UsageError: nobody."""
        signer = self._writers.get(volume_id)
        if signer is None:
            raise UsageError(
                f"this client holds no writing grant for volume {volume_id.hex()}",
                "get a grant first, from this client",
            )
        return signer

    def import_secret(self, session: str, secret: str, value: bytes, owner_key: OwnerKey) -> None:
        """Seal a value to the CAS and store it as a secret of kind `value`."""
        transcript = secret_transcript(
            session=session, secret=secret, key_id=owner_key.key_id, cas_spki=self._cas_spki()
        )
        sealed = seal_secret(value, self.trust.hpke_public_key, transcript)
        target = f"{session_path(session)}/secrets/{segment(secret)}"
        self._call("PUT", target, SecretImportRequest(sealed=sealed), Done, signer=owner_key)

    def audit(self, session: str, owner_key: OwnerKey, *, first: int = 0) -> AuditPage:
        """Read a page of the audit log from entry `first` on; entries of other sessions come as digests only.

        Raises:
            AuditError: the head is not signed by the audit key in the trust file.
        """
        page = self._call(
            "GET", f"{session_path(session)}/audit?first={first}", None, AuditPage, signer=owner_key
        )
        check_head(
            page.head, cas=self.trust.spki_sha256, public_key=bytes.fromhex(self.trust.audit_public_key)
        )
        return page

    def provision(
        self,
        session: str,
        workload: str,
        manifest: Manifest,
        attester: Attester,
        instance: int = 0,
        network_spki: bytes | None = None,
        endpoint: str | None = None,
    ) -> tuple[str, Provision]:
        """Attest this workload: challenge, Evidence bound to fresh keys, then (EAR token, opened Provision).

        Later `advance` calls for its writable volumes, `renew`, `members` and `report_denials` are signed by
        the attested key. network_spki: of the network shield's key, for a certificate. endpoint: "ip:port"
        where it listens.
        """
        keys = AttestedKeys(WorkloadKey.generate(), HpkeKeyPair.generate())
        who = Who(session, workload, instance, manifests.manifest_hash(manifest))
        response, transcript = self._prove(
            "/v1/attest", AttestRequest, AttestResponse, who, keys, attester, network_spki, endpoint
        )
        provision = open_sealed(response.sealed_provision, keys.hpke, transcript)
        check_provision(provision, who, network_spki)
        with self._lock:
            self._writers.update((grant.volume_id, keys.tls) for grant in provision.volumes if grant.writable)
            self._member[session] = (who, keys)
        return response.token, provision

    def renew(
        self,
        session: str,
        workload: str,
        manifest: Manifest,
        attester: Attester,
        instance: int,
        network_spki: bytes,
        endpoint: str | None,
    ) -> NetworkGrant:
        """Attest again for the next certificate, which may be for another network key. Nothing else changes.

        Raises:
            ManifestHashError: the Manifest was replaced: no longer a member. FencedError: another process
            attested as this instance. UsageError: this client did not provision it.
        """
        _, keys = self._membership(session)
        who = Who(session, workload, instance, manifests.manifest_hash(manifest))
        answer, _ = self._prove(
            "/v1/renew", RenewRequest, RenewResponse, who, keys, attester, network_spki, endpoint
        )
        grant = NetworkGrant(**msgspec.structs.asdict(answer))
        check_network(grant, network_spki)
        return grant

    def refresh(self, session: str, manifest: Manifest, attester: Attester) -> str:
        """Attest again for the next EAR token of what this client provisioned. Raises as `renew`."""
        who, keys = self._membership(session)
        who = replace(who, manifest_hash=manifests.manifest_hash(manifest))
        return self._prove("/v1/token", TokenRequest, TokenResponse, who, keys, attester)[0].token

    def attested_key(self, session: str) -> WorkloadKey:
        """Return the key in the `cnf` of this member's tokens. Raises UsageError: nothing was provisioned."""
        return self._membership(session)[1].tls

    def prove_cas(self) -> CasProof:
        """Have the CAS prove itself anew, for others to check. Raises CasIdentityError: not ours."""
        nonce = os.urandom(32)
        request = CasEvidenceRequest(nonce=nonce)
        proof = CasProof(
            url=self.trust.url,
            nonce=nonce,
            evidence=self._call("POST", "/v1/evidence", request, CasEvidenceResponse, repeatable=True),
            token_key=self._call("GET", "/v1/keys", None, TokenKey, repeatable=True),
        )
        check_proof(proof, self.trust)
        return proof

    def members(self, session: str, owner_key: OwnerKey | None = None) -> MembersView:
        """Read who the members are: as an owner who may read, or as the member that this client provisioned.

        Raises:
            ManifestHashError, FencedError: no longer a member. UsageError: no key, and nothing provisioned.
        """
        target = f"{session_path(session)}/members"
        if owner_key is not None:
            return self._call("GET", target, None, MembersView, signer=owner_key)
        who, keys = self._membership(session)
        target += f"?workload={segment(who.workload)}&instance={who.instance}"
        return self._call("GET", target, None, MembersView, signer=keys.tls, repeatable=True)

    def report_denials(self, session: str, denials: Sequence[Denial], dropped: int = 0) -> None:
        """Have what the network shield refused written to the audit log; too long texts are cut.

        dropped: how many more there were that the shield could not keep.
        """
        who, keys = self._membership(session)
        target = f"{session_path(session)}/denials"
        for message in denial_reports(who, denials, dropped):
            self._call("POST", target, message, Done, signer=keys.tls)

    def leave(self, session: str) -> None:
        """Tell the CAS that this member's program has ended: from now on nobody counts on it.

        Raises:
            ManifestHashError, FencedError: no longer a member.
        """
        who, keys = self._membership(session)
        message = LeaveRequest(workload=who.workload, instance=who.instance)
        self._call("POST", f"{session_path(session)}/leave", message, Done, signer=keys.tls)

    def _membership(self, session: str) -> tuple[Who, AttestedKeys]:
        with self._lock:
            found = self._member.get(session)
        if found is None:
            raise UsageError(
                f"this client provisioned no workload of {session}", "provision it first, with this client"
            )
        return found

    def _prove(
        self,
        target: str,
        kind: type[AttestRequest],
        answer: type[_M],
        who: Who,
        keys: AttestedKeys,
        attester: Attester,
        network_spki: bytes | None = None,
        endpoint: str | None = None,
    ) -> tuple[_M, bytes]:
        """Attest over one connection, whose exporter the Evidence binds; return answer and transcript."""
        asked = ChallengeRequest(
            session=who.session, workload=who.workload, instance=who.instance, binding="session"
        )
        with self._transport.line() as line:
            challenge = self._call(
                "POST", "/v1/challenge", asked, ChallengeResponse, repeatable=True, over=line
            )
            fields, transcript = attest_fields(
                who,
                keys,
                attester,
                nonce=challenge.nonce,
                cas_spki=self._cas_spki(),
                exporter=line.exporter(EXPORTER_LABEL),
                network_spki=network_spki,
                endpoint=endpoint,
            )
            signer = None if kind is AttestRequest else keys.tls
            return self._call("POST", target, kind(**fields), answer, signer=signer, over=line), transcript

    def _grant(self, kind: str, session: str, volume: str, owner_key: OwnerKey) -> VolumeGrant:
        ephemeral = HpkeKeyPair.generate()
        target = f"{session_path(session)}/volumes/{segment(volume)}/{kind}-grant"
        answer = self._call(
            "POST", target, GrantRequest(hpke_public_key=ephemeral.public), SealedResponse, signer=owner_key
        )
        transcript = grant_transcript(
            kind=kind,
            session=session,
            volume=volume,
            key_id=owner_key.key_id,
            cas_spki=self._cas_spki(),
            public=ephemeral.public,
        )
        return open_grant(answer.sealed, ephemeral, transcript)

    def _cas_spki(self) -> bytes:
        if not self._transport.seen_spki:
            self.status()
        return self._transport.seen_spki

    def _call(
        self,
        method: str,
        target: str,
        message: Message | None,
        answer: type[_M],
        *,
        signer: Signer | None = None,
        repeatable: bool = False,
        over: Line | None = None,
    ) -> _M:
        body = b"" if message is None else encode(message)
        headers = {"content-type": "application/json"} if body else {}
        if signer is not None:
            headers |= sign(
                signer,
                method=method,
                target=target,
                body=body,
                cas=self.trust.spki_sha256,
                created=int(time.time()),
                nonce=os.urandom(NONCE_BYTES),
            )
        status, raw = self._transport.send(method, target, body, headers, repeatable=repeatable, over=over)
        if status == _OK:
            return decode_answer(raw, answer)
        raise refusal_of(status, raw)
