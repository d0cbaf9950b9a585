"""Audit entries: what one says, and how it gets into the log. docs/formats/wire-v1.md, "Audit"."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from msgspec import Struct

from securetf.cas.store import LogEntry, Transaction
from securetf.errors import SecuretfError
from securetf.wire import DenialItem

_MAX_TEXT = 2000  # characters of a reason
_SALT_SIZE = 16  # bytes; keeps entries that a reader may not see from being guessed by their digest


class AuditEntry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One decision. Only names are in it, never values.

    salt: random hex. actor: key id of an owner or of an attested workload. released: names of what was handed
    out.
    verdict: `granted` or `refused`; then code and reason say why. suppressed: refusals not written before
    this one.
    """

    seq: int
    time: str
    salt: str
    action: str
    verdict: str
    simulated: bool
    session: str = ""
    actor: str = ""
    workload: str = ""
    instance: int = 0
    platform: str = ""
    measurement: str = ""
    manifest_hash: str = ""
    code: str = ""
    reason: str = ""
    released: list[str] = []
    details: dict[str, str] = {}
    suppressed: int = 0


@dataclass(slots=True, kw_only=True)
class AuditDraft:
    """What is known so far of the decision being made; filled in as it goes on."""

    action: str
    session: str = ""
    actor: str = ""
    workload: str = ""
    instance: int = 0
    platform: str = ""
    measurement: str = ""
    manifest_hash: str = ""
    released: list[str] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    suppressed: int = 0


def record(
    transaction: Transaction,
    draft: AuditDraft,
    *,
    now: datetime,
    simulated: bool,
    refusal: SecuretfError | None,
) -> LogEntry:
    """Append one entry; a refusal releases nothing, whatever the draft had planned."""

    def text(seq: int) -> bytes:
        return msgspec.json.encode(
            AuditEntry(
                seq=seq,
                time=timestamp(now),
                salt=os.urandom(_SALT_SIZE).hex(),
                action=draft.action,
                verdict="granted" if refusal is None else "refused",
                simulated=simulated,
                session=draft.session,
                actor=draft.actor,
                workload=draft.workload,
                instance=draft.instance,
                platform=draft.platform,
                measurement=draft.measurement,
                manifest_hash=draft.manifest_hash,
                code="" if refusal is None else refusal.code,
                reason="" if refusal is None else refusal.problem[:_MAX_TEXT],
                released=draft.released if refusal is None else [],
                details=draft.details,
                suppressed=draft.suppressed,
            )
        )

    return transaction.append(text)


def record_denials(
    transaction: Transaction,
    draft: AuditDraft,
    denials: Sequence[DenialItem],
    dropped: int,
    *,
    now: datetime,
    simulated: bool,
) -> None:
    """Append one entry for each connection that a member's shield refused; `dropped` counts further ones.

    The member says what it refused, and when; nothing of it was seen by the CAS.
    """
    for number, denial in enumerate(denials or [None]):
        details = {} if denial is None else _denial_details(denial)
        reason = "not written: too many" if denial is None else _printable(denial.reason)
        suppressed = dropped if number == 0 else 0

        def text(
            seq: int, details: dict[str, str] = details, reason: str = reason, more: int = suppressed
        ) -> bytes:
            return msgspec.json.encode(
                AuditEntry(
                    seq=seq,
                    time=timestamp(now),
                    salt=os.urandom(_SALT_SIZE).hex(),
                    action="network.denied",
                    verdict="refused",
                    simulated=simulated,
                    session=draft.session,
                    actor=draft.actor,
                    workload=draft.workload,
                    instance=draft.instance,
                    reason=reason,
                    details=details,
                    suppressed=more,
                )
            )

        transaction.append(text)


def _denial_details(denial: DenialItem) -> dict[str, str]:
    return {
        "at": str(denial.time_s),
        "direction": denial.direction,
        "process": _printable(denial.process),
        "destination": _printable(denial.destination),
        "count": str(denial.count),
    }


def _printable(text: str) -> str:
    """Return text of a program's making without what could steer a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def timestamp(moment: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
