"""The audit log for those who may read it. docs/formats/wire-v1.md, "Audit"."""

from dataclasses import dataclass

import msgspec

from securetf.cas.service.access import OwnerRequest, require_read
from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft, AuditEntry, timestamp
from securetf.cas.service.rows import session_of
from securetf.cas.store import LogEntry, Transaction
from securetf.wire import AuditEntryLine, AuditHead, AuditPage
from securetf.wire.audit import head_text

PAGE_ENTRIES = 500  # entries in one answer


@dataclass(frozen=True, slots=True)
class AuditLog:
    """What auditors may read."""

    context: Context

    def page(self, owner: OwnerRequest, draft: AuditDraft, session: str, first: int) -> AuditPage:
        """Return entries from `first` on, with texts only of this session's; the reading is itself recorded.

        Raises:
            NotFoundError: no such session, or not for this key.
        """
        context = self.context
        draft.session, draft.details = session, {"first": str(first)}

        def operation(transaction: Transaction) -> None:
            require_read(context, session_of(transaction, session), owner.key_id)

        context.decide(draft, operation, always=owner.consume)
        previous, entries, (length, digest) = context.store.log(first, PAGE_ENTRIES)
        return AuditPage(
            first=first,
            previous=previous,
            entries=[_line(entry, session) for entry in entries],
            head=self._head(length, digest),
        )

    def _head(self, length: int, digest: bytes) -> AuditHead:
        context = self.context
        time, simulated = timestamp(context.clock.now()), context.simulated
        text = head_text(
            length=length, digest=digest, time=time, simulated=simulated, cas=context.identity.spki_sha256
        )
        signature = context.identity.audit_key.sign(text)
        return AuditHead(length=length, digest=digest, time=time, simulated=simulated, signature=signature)


def _line(entry: LogEntry, session: str) -> AuditEntryLine:
    text = entry.text.decode()
    shown = msgspec.json.decode(entry.text, type=AuditEntry).session == session
    return AuditEntryLine(seq=entry.seq, leaf=entry.leaf, entry=text if shown else None)
