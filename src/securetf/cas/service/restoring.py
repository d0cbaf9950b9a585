"""Going back to an older root of a volume: an owner's explicit, audited word that a backup counts."""

from dataclasses import dataclass

from msgspec.structs import replace

from securetf.cas.service.access import OwnerRequest, require_update
from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.rows import put, session_of
from securetf.cas.service.volumes import next_epoch, reach
from securetf.cas.store import Transaction
from securetf.errors import ConflictError
from securetf.wire.restoring import AcceptRootRequest


@dataclass(frozen=True, slots=True)
class Restoring:
    """What owners accept."""

    context: Context

    def accept(
        self, owner: OwnerRequest, draft: AuditDraft, session: str, name: str, request: AcceptRootRequest
    ) -> None:
        """Let a volume stand at (seq, root), an older state of it. Fences its writer.

        The CAS keeps no history: that this was a state of the volume is the owner's word, and what it opens
        has to authenticate under the volume's key. What the storage has beyond the state counts no more.

        Raises:
            NotFoundError, NotAuthorisedError: not this key's. ConflictError: the volume is not where the
            owner saw it, or stands at this state. LimitError: no epoch is left.
        """
        draft.session = session
        draft.details = {
            "volume": name,
            "from": f"{request.seen_seq}/{request.seen_root.hex()}",
            "seq": str(request.seq),
            "root": request.root.hex(),
        }

        def operation(transaction: Transaction) -> None:
            row = session_of(transaction, session)
            require_update(self.context, row, owner.key_id)
            _, volume, _ = reach(transaction, row, self.context.manifest_of(row), name)
            if (volume.seq, volume.root) != (request.seen_seq, request.seen_root):
                raise ConflictError(
                    f"volume {name} is at {volume.seq}/{volume.root.hex()}, the request saw "
                    f"{request.seen_seq}/{request.seen_root.hex()}",
                    "something wrote to it meanwhile: look at it again before going back",
                )
            if volume.root == request.root or request.seq == 0:
                raise ConflictError(
                    f"sequence {request.seq} is no older state of volume {name}",
                    "name the root of a backup: `securetf volume accept-root DIRECTORY` shows what it holds",
                )
            epoch = next_epoch(volume)
            put(
                transaction,
                volume.volume_id,
                replace(
                    volume, epoch=epoch, kept_since=epoch, seq=request.seq, root=request.root, lease=None
                ),
            )

        self.context.decide(draft, operation, always=owner.consume)
