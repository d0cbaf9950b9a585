"""Volumes: grants of keys, leases, and the compare-and-swap that keeps every volume fresh."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from msgspec.structs import replace

from securetf.cas.service.access import OwnerRequest, check_window, names, require_read, require_update
from securetf.cas.service.context import Context, Refused, settled
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.rows import (
    DEFAULT_CHUNK_SIZE,
    VIRGIN_ROOT,
    Lease,
    SessionRow,
    VolumeRow,
    find,
    no_volume,
    put,
    session_of,
    volume_of,
)
from securetf.cas.store import Store, Transaction
from securetf.errors import (
    ConflictError,
    FencedError,
    LimitError,
    NotAuthorisedError,
    NotFoundError,
    SecuretfError,
)
from securetf.keys.signature import SignedRequest
from securetf.keys.workload import public_key
from securetf.manifest import Manifest, Volume, volume_rule
from securetf.provisioning import VolumeGrant, grant_transcript, public_key_of, seal_grant
from securetf.wire import Advanced, AdvanceRequest

MAX_VOLUMES = 1024  # of one session, all versions together
VOLUME_KEY_SIZE = 32  # bytes
_MAX_EPOCH = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Volumes:
    """What owners and writers do with volumes."""

    context: Context

    def packing_grant(
        self, owner: OwnerRequest, draft: AuditDraft, session: str, name: str, public: bytes
    ) -> bytes:
        """Make the owner the writer of a volume that no workload writes; return the sealed grant.

        Raises:
            NotFoundError, NotAuthorisedError: not this key's. ConflictError: a workload is its writer.
        """

        def operation(transaction: Transaction) -> VolumeGrant:
            row = session_of(transaction, session)
            require_update(self.context, row, owner.key_id)
            _, volume, rule = reach(transaction, row, self.context.manifest_of(row), name)
            if rule.writer is not None:
                raise ConflictError(
                    f"volume {name} is written by workload {rule.writer}, not by packing",
                    "pack into a volume without `writer`, or change the Manifest",
                )
            lease = Lease(key_id=owner.key_id, spki=b"", holder=owner.key_id)
            draft.released = [f"volume-key:{name}"]
            return raise_epoch(transaction, volume, lease, rule, "")

        return self._grant("packing", owner, draft, (session, name, public), operation)

    def export_grant(
        self, owner: OwnerRequest, draft: AuditDraft, session: str, name: str, public: bytes
    ) -> bytes:
        """Let an owner read a volume; return the sealed grant.

        Raises:
            NotFoundError: not this key's, or no such volume. NotAuthorisedError: `export` does not name the
            key.
            ConflictError: never written.
        """

        def operation(transaction: Transaction) -> VolumeGrant:
            row = session_of(transaction, session)
            require_read(self.context, row, owner.key_id)
            _, volume, rule = reach(transaction, row, self.context.manifest_of(row), name)
            if not names(row, rule.export, owner.key_id):
                if rule.writer is not None:
                    raise NotAuthorisedError(
                        f"{owner.key_id} is not in `export` of volume {name}, which workload "
                        f"{rule.writer} writes",
                        f"add the key to `[volumes.{name}] export` in a new version of the Manifest",
                    )
                require_update(self.context, row, owner.key_id)
            draft.released = [f"volume-key:{name}"]
            return read_grant(volume, rule, "")

        return self._grant("export", owner, draft, (session, name, public), operation)

    def advanced(self, volume_id: bytes, request: AdvanceRequest) -> Advanced:
        """Return what the writer is told once its request was carried out."""
        now_s = self.context.clock.monotonic_s()
        return Advanced(leased_s=self.context.leases.before(volume_id, request.new_seq, now_s))

    def advance(
        self, signed: SignedRequest, draft: AuditDraft, volume_id: bytes, request: AdvanceRequest
    ) -> None:
        """Move a volume's state. The request is signed by the holder of the lease.

        Raises:
            FencedError: the lease is another's, or the epoch is not current.
            ConflictError: not from the current state. NotAuthorisedError: the signature does not hold.
        """
        try:
            started = self.begin_advance(signed, draft, volume_id, request)
        except SecuretfError as error:
            self.context.record_refusal(draft, error)
            raise
        settled(started.result())

    def begin_advance(
        self, signed: SignedRequest, draft: AuditDraft, volume_id: bytes, request: AdvanceRequest
    ) -> "Future[Refused | None]":
        """Authenticate and hand in an advance without waiting for the disk; the caller calls `settled`.

        What it raises itself is not recorded yet: send the request through `advance` then.
        """
        draft.actor = signed.key_id
        draft.details = {
            "volume_id": volume_id.hex(),
            "epoch": str(request.epoch),
            "seq": str(request.new_seq),
            "root": request.new_root.hex(),
        }
        authenticate(self.context, signed, volume_id)

        def operation(transaction: Transaction) -> None:
            volume = confirmed(self.context, transaction, volume_id, signed.key_id)
            draft.session = volume.session
            draft.details["volume"] = volume.name
            _swap(transaction, volume, request)

        return self.context.begin(draft, operation)

    def _grant(
        self,
        kind: str,
        owner: OwnerRequest,
        draft: AuditDraft,
        target: tuple[str, str, bytes],
        operation: Callable[[Transaction], VolumeGrant],
    ) -> bytes:
        session, name, public = target
        key = public_key_of(public)
        draft.session, draft.details = session, {"volume": name}
        grant = self.context.decide(draft, operation, always=owner.consume)
        return seal_grant(
            grant,
            key,
            grant_transcript(
                kind=kind,
                session=session,
                volume=name,
                key_id=owner.key_id,
                cas_spki=self.context.identity.spki,
                public=public,
            ),
        )


def raise_epoch(
    transaction: Transaction, volume: VolumeRow, lease: Lease, rule: Volume, mount_path: str
) -> VolumeGrant:
    """Give the lease to another writer: the one before is fenced from here on."""
    raised = replace(volume, epoch=next_epoch(volume), lease=lease)
    put(transaction, volume.volume_id, raised)
    return _grant_of(raised, rule, mount_path, writable=True)


def next_epoch(volume: VolumeRow) -> int:
    """Return the epoch after the volume's. Raises LimitError: there is none."""
    if volume.epoch >= _MAX_EPOCH:
        raise LimitError(f"volume {volume.name} has used all epochs", "pack it into a new volume")
    return volume.epoch + 1


def read_grant(volume: VolumeRow, rule: Volume, mount_path: str) -> VolumeGrant:
    """Grant reading of exactly the current state.

    Raises:
        ConflictError: never written, or not of the root that the Manifest pins.
    """
    if volume.seq == 0:
        raise ConflictError(
            f"volume {volume.name} of {volume.session} was never written",
            "fill it first: `securetf volume pack`, or run the workload that writes it",
        )
    current = f"sha256:{volume.root.hex()}"
    if rule.root is not None and rule.root != current:
        raise ConflictError(
            f"the Manifest pins volume {volume.name} to root {rule.root}, the CAS has {current}",
            "pack the version that was reviewed, or pin the new root in a new version of the Manifest",
        )
    return _grant_of(volume, rule, mount_path, writable=False)


def _grant_of(volume: VolumeRow, rule: Volume, mount_path: str, *, writable: bool) -> VolumeGrant:
    return VolumeGrant(
        name=volume.name,
        volume_id=volume.volume_id,
        key=volume.key,
        key_version=volume.key_version,
        key_since=volume.key_since,
        older_key=volume.older_key,
        kept_since=volume.kept_since,
        epoch=volume.epoch,
        seq=volume.seq,
        root=volume.root,
        writable=writable,
        freshness=rule.freshness,
        mount_path=mount_path,
        chunk_size=volume.chunk_size,
        protection="authenticated" if rule.protection == "authenticated" else "encrypted",
    )


def check_epoch(volume: VolumeRow, epoch: int) -> None:
    """Raise FencedError unless this is the epoch of the newest writer."""
    if epoch != volume.epoch:
        raise FencedError(
            f"volume {volume.name} is in epoch {volume.epoch}, this writer has {epoch}",
            "stop writing; start again to get the lease and the current state",
        )


def _swap(transaction: Transaction, volume: VolumeRow, request: AdvanceRequest) -> None:
    check_epoch(volume, request.epoch)
    if (volume.seq, volume.root) == (request.new_seq, request.new_root):
        return  # the answer to the first sending was lost; the epoch shows that it is the same writer
    if (volume.seq, volume.root) != (request.seq, request.root):
        raise ConflictError(
            f"volume {volume.name} is at {volume.seq}/{volume.root.hex()}, the writer came from "
            f"{request.seq}/{request.root.hex()}",
            "stop writing and open the volume again from the current state",
        )
    if request.new_seq <= request.seq:
        raise ConflictError(
            f"the new sequence number {request.new_seq} does not follow {request.seq}",
            "count up from the current one",
        )
    put(transaction, volume.volume_id, replace(volume, seq=request.new_seq, root=request.new_root))


def rule_of(manifest: Manifest, name: str) -> Volume | None:
    """Return the rule for a volume, NAME or NAME.INSTANCE of a `per_instance` one; None if there is none."""
    base = volume_rule(manifest, name)
    return None if base is None else manifest.volumes[base]


def reach(
    transaction: Transaction, session: SessionRow, manifest: Manifest, name: str
) -> tuple[SessionRow, VolumeRow, Volume]:
    """Return the session, a volume of it and its rule; an instance's own volume is made when first asked for.

    Raises:
        NotFoundError: the Manifest has no such volume. LimitError: the session has too many.
    """
    rule = rule_of(manifest, name)
    if rule is None and name in manifest.volumes:
        raise NotFoundError(
            f"each instance has its own volume {name} in {session.name}",
            f"name one of them, such as {name}.0",
        )
    if rule is None or rule.protection == "ephemeral":
        raise no_volume(session.name, name)
    if rule.per_instance and name not in session.volumes:
        volumes = {**session.volumes, name: make_volume(transaction, session.name, name)}
        check_count(session.name, volumes)
        session = replace(session, volumes=volumes)
        put(transaction, session.name.encode(), session)
    return session, volume_of(transaction, session, name), rule


def check_count(session: str, volumes: dict[str, str]) -> None:
    """Raise LimitError when a session has more volumes than it may, all versions together."""
    if len(volumes) > MAX_VOLUMES:
        raise LimitError(
            f"{session} has had {len(volumes)} volumes, the limit is {MAX_VOLUMES}", "make a new session"
        )


def make_volume(transaction: Transaction, session: str, name: str) -> str:
    """Make an empty volume with a new key; return its id in hex."""
    volume_id = os.urandom(16)
    put(
        transaction,
        volume_id,
        VolumeRow(
            volume_id=volume_id,
            session=session,
            name=name,
            key=os.urandom(VOLUME_KEY_SIZE),
            key_version=1,
            epoch=0,
            seq=0,
            root=VIRGIN_ROOT,
            chunk_size=DEFAULT_CHUNK_SIZE,
            lease=None,
        ),
    )
    return volume_id.hex()


def authenticate(context: Context, signed: SignedRequest, volume_id: bytes) -> None:
    """Check that the holder of the volume's lease signed: `confirmed` decides in the transaction whether it
    still is. Raises FencedError, NotAuthorisedError."""
    check_window(context, signed)
    if context.holders.has_verified(volume_id, signed):
        return
    lease = held_by(context.store, volume_id, signed.key_id).lease
    key = public_key(lease.spki) if lease is not None and lease.spki else None
    signed.verify(key)
    context.holders.remember(volume_id, signed.key_id, key)


def confirmed(context: Context, transaction: Transaction, volume_id: bytes, key_id: str) -> VolumeRow:
    """As `held_by`, of who was authenticated before the transaction."""
    try:
        return held_by(transaction, volume_id, key_id)
    except FencedError:
        context.holders.forget(volume_id)
        raise


def held_by(source: Store | Transaction, volume_id: bytes, key_id: str) -> VolumeRow:
    """Return the volume whose lease this key holds. Raises FencedError: it does not."""
    volume = find(source, VolumeRow, volume_id)
    if volume is not None and volume.lease is not None and volume.lease.key_id == key_id:
        return volume
    raise FencedError(
        f"{key_id} does not hold the lease of this volume: another writer got it, or the Manifest changed",
        "stop writing; start again to get the lease and the current state",
    )
