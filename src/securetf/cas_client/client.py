"""Requests to a CAS: each is sent only after the CAS's key has been compared with the pinned one."""

import hashlib
import os
import threading
import time
from typing import TypeVar

from securetf import errors
from securetf import manifest as manifests
from securetf.attester import Attester
from securetf.cas_client.transport import Transport
from securetf.cas_client.trust import CasTrust
from securetf.errors import CasProtocolError, CasUnreachableError, LimitError, SecuretfError, UsageError
from securetf.evidence import binding
from securetf.keys.owner import OwnerKey
from securetf.keys.signature import NONCE_BYTES, Signer, sign
from securetf.keys.workload import WorkloadKey
from securetf.manifest import Manifest
from securetf.provisioning import (
    HpkeKeyPair,
    Provision,
    VolumeGrant,
    grant_transcript,
    open_grant,
    open_sealed,
    seal_secret,
    secret_transcript,
)
from securetf.wire import (
    AdvanceRequest,
    AttestRequest,
    AttestResponse,
    AuditPage,
    ChallengeRequest,
    ChallengeResponse,
    Done,
    ErrorDocument,
    GrantRequest,
    SealedResponse,
    SecretImportRequest,
    SessionCreateRequest,
    SessionHistory,
    SessionUpdateRequest,
    SessionView,
    StatusResponse,
    decode,
    encode,
)
from securetf.wire.audit import check_head
from securetf.wire.messages import Message

_M = TypeVar("_M", bound=Message)
_OK = 200
_BUSY = 503


class CasClient:
    """One CAS, verified before (`CasTrust`). Thread-safe; keeps connections alive; use as a context manager.

    Each call raises CasUnreachableError, CasIdentityError, CasProtocolError, or the error that the CAS
    answered with, as the same class of `securetf.errors`.
    """

    def __init__(self, trust: CasTrust, *, deadline_s: float = 10.0) -> None:
        self.trust = trust
        self._transport = Transport(trust.url, trust.spki_sha256, deadline_s=deadline_s)
        self._writers: dict[bytes, Signer] = {}  # volume id → who holds its lease through this client
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
        target = _session(manifests.parse(manifest_text).session.name)
        message = SessionUpdateRequest(manifest=manifest_text)
        return self._call("PUT", target, message, SessionView, signer=owner_key)

    def read_session(self, session: str, owner_key: OwnerKey) -> SessionView:
        """Read the current version and the states of its volumes."""
        return self._call("GET", _session(session), None, SessionView, signer=owner_key)

    def history(self, session: str, owner_key: OwnerKey) -> SessionHistory:
        """Read the chain of versions."""
        return self._call("GET", f"{_session(session)}/history", None, SessionHistory, signer=owner_key)

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
    ) -> None:
        """Move a volume's state by compare-and-swap; returns once it is durable and anchored. Thread-safe.

        A repetition of the last successful call succeeds again, so a lost answer is retried, once.

        Raises:
            FencedError: the epoch is not current, or another key holds the lease: stop writing.
            ConflictError: (seq, root) is not the current state.
        """
        signer = self._writers.get(volume_id)
        if signer is None:
            raise UsageError(
                f"this client holds no writing grant for volume {volume_id.hex()}",
                "get a grant first, from this client",
            )
        message = AdvanceRequest(epoch=epoch, seq=seq, root=root, new_seq=new_seq, new_root=new_root)
        target = f"/v1/volumes/{volume_id.hex()}/advance"
        self._call("POST", target, message, Done, signer=signer, repeatable=True)

    def import_secret(self, session: str, secret: str, value: bytes, owner_key: OwnerKey) -> None:
        """Seal a value to the CAS and store it as a secret of kind `value`."""
        transcript = secret_transcript(
            session=session, secret=secret, key_id=owner_key.key_id, cas_spki=self._cas_spki()
        )
        sealed = seal_secret(value, self.trust.hpke_public_key, transcript)
        target = f"{_session(session)}/secrets/{_segment(secret)}"
        self._call("PUT", target, SecretImportRequest(sealed=sealed), Done, signer=owner_key)

    def audit(self, session: str, owner_key: OwnerKey, *, first: int = 0) -> AuditPage:
        """Read a page of the audit log from entry `first` on; entries of other sessions come as digests only.

        Raises:
            AuditError: the head is not signed by the audit key in the trust file.
        """
        page = self._call(
            "GET", f"{_session(session)}/audit?first={first}", None, AuditPage, signer=owner_key
        )
        check_head(
            page.head, cas=self.trust.spki_sha256, public_key=bytes.fromhex(self.trust.audit_public_key)
        )
        return page

    def provision(
        self, session: str, workload: str, manifest: Manifest, attester: Attester, instance: int = 0
    ) -> tuple[str, Provision]:
        """Attest this workload: challenge, Evidence bound to fresh keys, then (EAR token, opened Provision).

        Later `advance` calls for its writable volumes are signed by the attested key.
        """
        challenge = self._call(
            "POST",
            "/v1/challenge",
            ChallengeRequest(session=session, workload=workload, instance=instance),
            ChallengeResponse,
            repeatable=True,
        )
        tls_key, hpke_key = WorkloadKey.generate(), HpkeKeyPair.generate()
        manifest_hash = manifests.manifest_hash(manifest)
        transcript = binding.transcript(
            role=binding.Role.WORKLOAD,
            nonce=challenge.nonce,
            tls_spki=tls_key.spki,
            hpke_public_key=hpke_key.public,
            cas_spki=self._cas_spki(),
            exporter=None,
            manifest_hash=manifest_hash,
        )
        evidence = attester.attest(hashlib.sha512(transcript).digest())
        request = AttestRequest(
            session=session,
            workload=workload,
            instance=instance,
            nonce=challenge.nonce,
            manifest_hash=manifest_hash,
            platform=evidence.platform.value,
            evidence=evidence.raw,
            tls_spki=tls_key.spki,
            hpke_public_key=hpke_key.public,
        )
        response = self._call("POST", "/v1/attest", request, AttestResponse)
        provision = open_sealed(response.sealed_provision, hpke_key, transcript)
        _check_provision(provision, request)
        with self._lock:
            self._writers.update((grant.volume_id, tls_key) for grant in provision.volumes if grant.writable)
        return response.token, provision

    def _grant(self, kind: str, session: str, volume: str, owner_key: OwnerKey) -> VolumeGrant:
        ephemeral = HpkeKeyPair.generate()
        target = f"{_session(session)}/volumes/{_segment(volume)}/{kind}-grant"
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
        status, raw = self._transport.send(method, target, body, headers, repeatable=repeatable)
        if status == _OK:
            return decode_answer(raw, answer)
        raise refusal_of(status, raw)


def _check_provision(provision: Provision, request: AttestRequest) -> None:
    asked = (request.session, request.workload, request.instance, request.manifest_hash)
    got = (provision.session, provision.workload, provision.instance, provision.manifest_hash)
    if asked != got:
        raise CasProtocolError(
            f"the CAS provisioned {got[1]}/{got[2]} of {got[0]}, asked was {asked[1]}/{asked[2]} of "
            f"{asked[0]}",
            "report it; this CAS does not follow the protocol",
        )


def decode_answer(raw: bytes, kind: type[_M]) -> _M:
    """Read an answer of the CAS. Raises CasProtocolError when it is not of this kind."""
    try:
        return decode(raw, kind)
    except (UsageError, LimitError) as error:
        raise CasProtocolError(
            f"the CAS's answer is not of the expected form: {error.problem}",
            "use the same release on both sides",
        ) from None


def refusal_of(status: int, raw: bytes) -> SecuretfError:
    """Return the error that an error document stands for, as the class of its code."""
    if status == _BUSY and not raw.startswith(b'{"code"'):
        return CasUnreachableError("the CAS has too many connections", "try again in a moment")
    document = decode_answer(raw, ErrorDocument)
    return _class_of(document.code)(document.problem, document.fix)


def _class_of(code: str) -> type[SecuretfError]:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, SecuretfError) and value.code == code:
            return value
    return SecuretfError


def _session(name: str) -> str:
    tenant, slash, rest = name.partition("/")
    if not slash:
        raise UsageError(f"{name!r} is not tenant/session", "name a session as tenant/name")
    return f"/v1/sessions/{_segment(tenant)}/{_segment(rest)}"


def _segment(name: str) -> str:
    """Return a name that may stand in a path as it is."""
    if not name or not all(c.isascii() and (c.isalnum() or c in "._-") for c in name) or name in (".", ".."):
        raise UsageError(
            f"{name!r} cannot be a name",
            "use letters, digits, dots, dashes and underscores as in the Manifest",
        )
    return name
