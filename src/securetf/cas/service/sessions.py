"""Sessions: a chain of Manifests; keys and random secrets are made when a version first names them."""

import os
from dataclasses import dataclass

from msgspec.structs import replace

from securetf import manifest as manifests
from securetf.cas.service import certificates
from securetf.cas.service.access import OwnerRequest, require_read, require_update
from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft, timestamp
from securetf.cas.service.rows import (
    OwnerRow,
    SecretRow,
    SessionRow,
    VersionRow,
    find,
    put,
    secret_key,
    session_of,
    version_key,
    volume_of,
)
from securetf.cas.service.volumes import check_count, make_volume, rule_of
from securetf.cas.store import Transaction
from securetf.errors import ConflictError, LimitError, ManifestPredecessorError, ManifestValueError
from securetf.manifest import Manifest
from securetf.wire import SessionHistory, SessionView, VersionView, VolumeState

MAX_SESSIONS_PER_OWNER = 1000
MAX_VERSIONS = 10_000


@dataclass(frozen=True, slots=True)
class Sessions:
    """What owners do with sessions."""

    context: Context

    def create(self, owner: OwnerRequest, draft: AuditDraft, text: str) -> SessionView:
        """Take the first version of a session; the signing key becomes its creator.

        Raises:
            ConflictError: the name is taken. ManifestPredecessorError: it names a predecessor.
            LimitError: too many sessions of this key. ManifestError: not a valid Manifest.
        """

        def operation(transaction: Transaction) -> SessionView:
            manifest = manifests.parse(text)
            name = draft.session = manifest.session.name
            if find(transaction, SessionRow, name.encode()) is not None:
                raise ConflictError(f"there is a session {name} already", "choose another name, or update it")
            if manifest.session.predecessor is not None:
                raise ManifestPredecessorError(
                    f"the first version of {name} names a predecessor", "leave `[session] predecessor` out"
                )
            made = find(transaction, OwnerRow, owner.key_id.encode()) or OwnerRow(sessions=0)
            if made.sessions >= MAX_SESSIONS_PER_OWNER:
                raise LimitError(
                    f"{owner.key_id} has made {made.sessions} sessions, the limit", "use another owner's key"
                )
            put(transaction, owner.key_id.encode(), OwnerRow(sessions=made.sessions + 1))
            before = SessionRow(
                name=name, creator=owner.key_id, version=0, manifest_hash=b"", manifest="", volumes={}
            )
            return self._next(transaction, before, manifest, text, owner.key_id, draft)

        return self.context.decide(draft, operation, always=owner.consume)

    def update(self, owner: OwnerRequest, draft: AuditDraft, session: str, text: str) -> SessionView:
        """Take the next version of a session.

        Raises:
            NotFoundError, NotAuthorisedError: not this key's to update.
            ManifestPredecessorError: does not follow the current version. ManifestError: not a valid
            Manifest.
        """
        draft.session = session

        def operation(transaction: Transaction) -> SessionView:
            row = session_of(transaction, session)
            require_update(self.context, row, owner.key_id)
            manifest = manifests.parse(text)
            if manifest.session.name != session:
                raise ManifestValueError(
                    f"the Manifest is of {manifest.session.name}, the update is of {session}",
                    "send it to the session that it names",
                )
            current = _text(row.manifest_hash)
            if manifest.session.predecessor != current:
                raise ManifestPredecessorError(
                    f"the Manifest names predecessor {manifest.session.predecessor}, current is {current}",
                    "look at what changed with `securetf session show`, then set `[session] "
                    "predecessor` to the "
                    "current hash",
                )
            if row.version >= MAX_VERSIONS:
                raise LimitError(f"{session} has {row.version} versions, the limit", "make a new session")
            self._fence(transaction, row, manifest)
            return self._next(transaction, row, manifest, text, owner.key_id, draft)

        return self.context.decide(draft, operation, always=owner.consume)

    def read(self, owner: OwnerRequest, draft: AuditDraft, session: str) -> SessionView:
        """Return the current version and the states of its volumes. Raises NotFoundError."""
        draft.session = session

        def operation(transaction: Transaction) -> SessionView:
            row = session_of(transaction, session)
            require_read(self.context, row, owner.key_id)
            return self._view(transaction, row)

        return self.context.decide(draft, operation, always=owner.consume)

    def history(self, owner: OwnerRequest, draft: AuditDraft, session: str) -> SessionHistory:
        """Return all versions, without their texts. Raises NotFoundError."""
        draft.session = session

        def operation(transaction: Transaction) -> SessionHistory:
            row = session_of(transaction, session)
            require_read(self.context, row, owner.key_id)
            versions = []
            for number in range(1, row.version + 1):
                version = find(transaction, VersionRow, version_key(session, number))
                if version is not None:
                    versions.append(
                        VersionView(
                            version=number,
                            manifest_hash=_text(version.manifest_hash),
                            predecessor=version.predecessor,
                            signed_by=version.signed_by,
                            time=version.time,
                        )
                    )
            return SessionHistory(session=session, versions=versions)

        return self.context.decide(draft, operation, always=owner.consume)

    def _next(
        self,
        transaction: Transaction,
        before: SessionRow,
        manifest: Manifest,
        text: str,
        key_id: str,
        draft: AuditDraft,
    ) -> SessionView:
        session, version, digest = before.name, before.version + 1, manifests.manifest_hash(manifest)
        volumes = dict(before.volumes)
        for name, rule in manifest.volumes.items():
            if name not in volumes and not rule.per_instance and rule.protection != "ephemeral":
                volumes[name] = make_volume(transaction, session, name)
        check_count(session, volumes)
        domain, now = self.context.identity.spki_sha256, self.context.clock.now()
        certificates.authority(transaction, session, trust_domain=domain, now=now)
        for name, secret in manifest.secrets.items():
            _make_secret(transaction, session, name, secret.kind, secret.size_bytes)
        row = SessionRow(
            name=session,
            creator=before.creator,
            version=version,
            manifest_hash=digest,
            manifest=text,
            volumes=volumes,
        )
        put(transaction, session.encode(), row)
        put(
            transaction,
            version_key(session, version),
            VersionRow(
                version=version,
                manifest_hash=digest,
                predecessor=manifest.session.predecessor,
                signed_by=key_id,
                time=timestamp(now),
                manifest=text,
            ),
        )
        draft.manifest_hash = _text(digest)
        return self._view(transaction, row)

    def _fence(self, transaction: Transaction, row: SessionRow, manifest: Manifest) -> None:
        """End the leases of volumes whose writer the new version changes or which it no longer has."""
        old = self.context.manifest_of(row)
        for name in row.volumes:
            before, after = rule_of(old, name), rule_of(manifest, name)
            if before is None or (after is not None and after.writer == before.writer):
                continue
            volume = volume_of(transaction, row, name)
            if volume.lease is not None:
                put(transaction, volume.volume_id, replace(volume, lease=None))

    def _view(self, transaction: Transaction, row: SessionRow) -> SessionView:
        manifest = manifests.parse(row.manifest)
        states = []
        for name in sorted(one for one in row.volumes if rule_of(manifest, one) is not None):
            volume = volume_of(transaction, row, name)
            states.append(
                VolumeState(
                    name=name,
                    volume_id=volume.volume_id.hex(),
                    key_version=volume.key_version,
                    epoch=volume.epoch,
                    seq=volume.seq,
                    root=volume.root,
                    writer=None if volume.lease is None else volume.lease.holder,
                )
            )
        return SessionView(
            session=row.name,
            version=row.version,
            manifest_hash=_text(row.manifest_hash),
            manifest=row.manifest,
            creator=row.creator,
            volumes=states,
            secrets=sorted(manifest.secrets),
        )


def _make_secret(transaction: Transaction, session: str, name: str, kind: str, size_bytes: int) -> None:
    """Make a random secret unless there is one of this size; a value stays until it is imported anew."""
    key = secret_key(session, name)
    row = find(transaction, SecretRow, key)
    if kind == "random" and (row is None or row.kind != kind or len(row.value) != size_bytes):
        version = 1 if row is None else row.version + 1
        put(transaction, key, SecretRow(value=os.urandom(size_bytes), kind=kind, version=version))
    if kind == "value" and row is not None and row.kind != kind:
        transaction.delete("secret", key)


def _text(digest: bytes) -> str:
    return f"sha256:{digest.hex()}"
