"""Re-keying: the next key of a volume, and the end of the one before. docs/decisions/0020-rekeying.md"""

import os
from dataclasses import dataclass

from msgspec.structs import replace

from securetf.cas.service.access import OwnerRequest, require_update
from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.rows import put, session_of
from securetf.cas.service.volumes import VOLUME_KEY_SIZE, authenticate, check_epoch, confirmed, reach
from securetf.cas.store import Transaction
from securetf.errors import ConflictError, SecuretfError
from securetf.keys.signature import SignedRequest
from securetf.wire.rekeying import KeyEndRequest, RekeyResponse


@dataclass(frozen=True, slots=True)
class Rekeying:
    """What owners begin and writers end."""

    context: Context

    def begin(self, owner: OwnerRequest, draft: AuditDraft, session: str, name: str) -> RekeyResponse:
        """Make the next key of a volume, for the epochs to come. While one is on its way nothing changes.

        Raises:
            NotFoundError, NotAuthorisedError: not this key's. ConflictError: never written.
        """
        draft.session, draft.details = session, {"volume": name}

        def operation(transaction: Transaction) -> RekeyResponse:
            row = session_of(transaction, session)
            require_update(self.context, row, owner.key_id)
            _, volume, rule = reach(transaction, row, self.context.manifest_of(row), name)
            if volume.seq == 0:
                raise ConflictError(
                    f"volume {name} of {session} was never written", "fill it first; its key is new"
                )
            if volume.older_key is None:
                volume = replace(
                    volume,
                    key=os.urandom(VOLUME_KEY_SIZE),
                    key_version=volume.key_version + 1,
                    key_since=volume.epoch + 1,
                    older_key=volume.key,
                )
                put(transaction, volume.volume_id, volume)
            draft.details["key_version"] = str(volume.key_version)
            return RekeyResponse(key_version=volume.key_version, writer=rule.writer)

        return self.context.decide(draft, operation, always=owner.consume)

    def end(self, signed: SignedRequest, draft: AuditDraft, volume_id: bytes, request: KeyEndRequest) -> None:
        """Forget the older key. The writer in the current epoch says that nothing needs it.

        Raises:
            FencedError: the lease is another's, or the epoch is not current. ConflictError: a state that is
            not anchored, or a writer from before the new key. NotAuthorisedError: the signature is not its.
        """
        draft.actor = signed.key_id
        draft.details = {"volume_id": volume_id.hex(), "epoch": str(request.epoch), "seq": str(request.seq)}
        try:
            authenticate(self.context, signed, volume_id)
        except SecuretfError as error:
            self.context.record_refusal(draft, error)
            raise

        def operation(transaction: Transaction) -> None:
            volume = confirmed(self.context, transaction, volume_id, signed.key_id)
            draft.session = volume.session
            draft.details |= {"volume": volume.name, "key_version": str(volume.key_version)}
            check_epoch(volume, request.epoch)
            if volume.seq < request.seq:
                raise ConflictError(
                    f"volume {volume.name} is at sequence {volume.seq}, the writer sealed {request.seq} anew",
                    "anchor that state first",
                )
            if volume.epoch < volume.key_since:
                raise ConflictError(
                    f"key version {volume.key_version} of volume {volume.name} begins with epoch "
                    f"{volume.key_since}, this writer has {volume.epoch}",
                    "open the volume for writing anew: only then it is sealed under the new key",
                )
            put(transaction, volume.volume_id, replace(volume, older_key=None))

        self.context.decide(draft, operation)
