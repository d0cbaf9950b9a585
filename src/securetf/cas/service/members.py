"""Members of a session: who attested when as what, who is still missing, and what their shields refused."""

import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from msgspec.structs import replace

from securetf.cas.service.access import OwnerRequest, check_window, require_read
from securetf.cas.service.context import Bucket, Context
from securetf.cas.service.entries import AuditDraft, record_denials
from securetf.cas.service.rows import (
    MemberRow,
    SessionRow,
    find,
    member_key,
    put,
    rows_of,
    session_of,
    volume_of,
)
from securetf.cas.store import Store, Transaction
from securetf.errors import FencedError, ManifestHashError, NotFoundError, SecuretfError, UsageError
from securetf.keys.signature import SignedRequest
from securetf.keys.workload import public_key
from securetf.manifest import Manifest, mounts, network, volume_rule
from securetf.wire import (
    AttestRequest,
    DenialReport,
    LeaveRequest,
    MembersView,
    MemberView,
    VolumeHead,
)

_DENIALS_PER_S, _DENIAL_BURST = 5.0, 200.0  # entries of the audit log per member
MAX_REMEMBERED = 10_000  # members whose rate is remembered


class DenialLimits:
    """How many denials each member may still have written. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes, Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, member: bytes, wanted: int, now_s: float) -> int:
        """Return how many of `wanted` may be written now."""
        with self._lock:
            bucket = self._buckets.pop(member, None) or Bucket(_DENIALS_PER_S, _DENIAL_BURST, at=now_s)
            self._buckets[member] = bucket
            if len(self._buckets) > MAX_REMEMBERED:
                self._buckets.popitem(last=False)
            count = 0
            while count < wanted and bucket.take(now_s):
                count += 1
            return count


@dataclass(frozen=True, slots=True)
class Members:
    """What members and owners ask about members."""

    context: Context
    limits: DenialLimits = field(default_factory=DenialLimits)

    def of_member(
        self, signed: SignedRequest, draft: AuditDraft, session: str, workload: str, instance: int
    ) -> MembersView:
        """Tell a member of the others, and give it TF_CONFIG once its cluster is complete.

        Only refusals are recorded: members ask again and again.

        Raises:
            NotFoundError, NotAuthorisedError: not a member. FencedError: another one is this instance now.
            ManifestHashError: its Manifest was replaced.
        """
        draft.session, draft.workload, draft.instance = session, workload, instance
        try:
            row = self._authenticate(signed, draft, session, workload, instance)
        except SecuretfError as error:
            self.context.record_refusal(draft, error)
            raise
        return self._view(row, workload, instance)

    def of_owner(self, owner: OwnerRequest, draft: AuditDraft, session: str) -> MembersView:
        """Tell an owner of all members. Raises NotFoundError unless `[access]` lets the key read."""
        draft.session = session

        def operation(transaction: Transaction) -> SessionRow:
            row = session_of(transaction, session)
            require_read(self.context, row, owner.key_id)
            return row

        return self._view(self.context.decide(draft, operation, always=owner.consume))

    def denials(self, signed: SignedRequest, draft: AuditDraft, session: str, report: DenialReport) -> None:
        """Write what a member's shield refused to the audit log; what is too much is counted there.

        Raises:
            As `of_member`.
        """
        draft.session, draft.workload, draft.instance = session, report.workload, report.instance
        try:
            self._authenticate(signed, draft, session, report.workload, report.instance)
        except SecuretfError as error:
            self.context.record_refusal(draft, error)
            raise
        context = self.context
        key = member_key(session, report.workload, report.instance)
        count = self.limits.take(key, len(report.denials), context.clock.monotonic_s())
        taken, dropped = report.denials[:count], report.dropped + len(report.denials) - count
        if not taken and not dropped:
            return

        def operation(transaction: Transaction) -> None:
            record_denials(
                transaction, draft, taken, dropped, now=context.clock.now(), simulated=context.simulated
            )

        context.store.transact(operation)

    def leave(self, signed: SignedRequest, draft: AuditDraft, session: str, request: LeaveRequest) -> None:
        """Count a member no longer: its cluster is not complete without a new one.

        Its certificate and its volumes stay as they are: it is the member itself that asks.

        Raises:
            As `of_member`.
        """
        draft.session, draft.workload, draft.instance = session, request.workload, request.instance
        draft.actor = signed.key_id
        key = member_key(session, request.workload, request.instance)

        def operation(transaction: Transaction) -> None:
            check_window(self.context, signed)
            row = session_of(transaction, session)
            found = find(transaction, MemberRow, key)
            member = check_member(row, found, signed, request.workload, request.instance)
            now_s = int(self.context.clock.now().timestamp())
            put(transaction, key, replace(member, expires_at=min(member.expires_at, now_s)))

        self.context.decide(draft, operation)

    def _authenticate(
        self, signed: SignedRequest, draft: AuditDraft, session: str, workload: str, instance: int
    ) -> SessionRow:
        draft.actor = signed.key_id
        check_window(self.context, signed)
        row = session_of(self.context.store, session)
        member = find(self.context.store, MemberRow, member_key(session, workload, instance))
        check_member(row, member, signed, workload, instance)
        return row

    def _view(self, session: SessionRow, workload: str = "", instance: int = 0) -> MembersView:
        context = self.context
        manifest, now_s = context.manifest_of(session), int(context.clock.now().timestamp())
        rows = _current(context.store, session)
        live = {(row.workload, row.instance) for row in rows if row.expires_at > now_s}
        if workload:
            missing = network.missing(manifest, workload, live)
        else:
            missing = [one for one in _needed(manifest) if one not in live]
        in_cluster = workload and manifest.workloads[workload].tensorflow_cluster is not None
        config = None
        if in_cluster and not missing:
            config = network.tf_config(manifest, workload, instance, live)
        return MembersView(
            manifest_hash=f"sha256:{session.manifest_hash.hex()}",
            members=[_shown(row) for row in rows],
            ready=not missing,
            missing=[f"{name}/{number}" for name, number in missing],
            tf_config=config,
            volumes=_followed(context, session, manifest, workload, instance) if workload else {},
        )


def _followed(
    context: Context, session: SessionRow, manifest: Manifest, workload: str, instance: int
) -> dict[str, VolumeHead]:
    """Where the volumes stand that this member reads and follows; it has a lease on what it is told."""
    found = {}
    for name, (_, writable) in mounts(manifest, workload, instance).items():
        rule = volume_rule(manifest, name)
        if rule is not None and manifest.volumes[rule].freshness == "follow" and not writable:
            row = volume_of(context.store, session, name)
            context.leases.told(row.volume_id, row.seq, context.clock.monotonic_s())
            found[name] = VolumeHead(epoch=row.epoch, seq=row.seq, root=row.root)
    return found


def enter(
    transaction: Transaction,
    session: SessionRow,
    request: AttestRequest,
    *,
    key_id: str,
    now: datetime,
    expires_at: int,
) -> MemberRow:
    """Make who attested the member of this instance; the one before is fenced: the generation counts up."""
    key = member_key(session.name, request.workload, request.instance)
    before = find(transaction, MemberRow, key)
    now_s = int(now.timestamp())
    row = MemberRow(
        workload=request.workload,
        instance=request.instance,
        generation=1 if before is None else before.generation + 1,
        manifest_hash=session.manifest_hash,
        key_id=key_id,
        tls_spki=request.tls_spki,
        network_spki=request.network_spki or b"",
        endpoint=request.endpoint or "",
        attested_at=now_s,
        last_attested_at=now_s,
        expires_at=expires_at,
    )
    put(transaction, key, row)
    return row


def renewed(
    transaction: Transaction,
    session: SessionRow,
    request: AttestRequest,
    signed: SignedRequest,
    *,
    now: datetime,
    expires_at: int | None,
) -> MemberRow:
    """Note that the member of this instance attested again, with the same attested key.

    expires_at: of its new certificate; None = network key, endpoint and certificate stay.

    Raises:
        NotFoundError: no member. FencedError: another one is this instance now.
    """
    key = member_key(session.name, request.workload, request.instance)
    found = find(transaction, MemberRow, key)
    before = _current_member(found, session, signed.key_id, request.workload, request.instance)
    if request.tls_spki != before.tls_spki:
        raise _fenced(before)
    if before.manifest_hash != session.manifest_hash:
        raise _replaced(before, session)
    row = replace(before, last_attested_at=int(now.timestamp()))
    if expires_at is not None:
        row = replace(
            row,
            network_spki=request.network_spki or b"",
            endpoint=request.endpoint or "",
            expires_at=expires_at,
        )
    put(transaction, key, row)
    return row


def check_member(
    session: SessionRow, member: MemberRow | None, signed: SignedRequest, workload: str, instance: int
) -> MemberRow:
    """Check that a request is signed by the attested key of the current member; return the member.

    Raises:
        NotFoundError, FencedError, ManifestHashError, NotAuthorisedError: it is not.
    """
    found = _current_member(member, session, signed.key_id, workload, instance)
    signed.verify(public_key(found.tls_spki))
    if found.manifest_hash != session.manifest_hash:
        raise _replaced(found, session)
    return found


def check_endpoint(text: str | None) -> None:
    """Raise UsageError unless it is "ip:port", "[ip]:port" for IPv6, or None. Nothing trusts the address."""
    if text is None:
        return
    host, _, port = text.rpartition(":")
    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(inner)
        good = (address.version == 6) == (inner != host) and 1 <= int(port) <= 65535
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"the endpoint {text[:64]!r} is not ip:port", "advertise an address and a port")


def _current_member(
    member: MemberRow | None, session: SessionRow, key_id: str, workload: str, instance: int
) -> MemberRow:
    if member is None:
        raise NotFoundError(
            f"{workload[:64]}/{instance} of {session.name} has never attested",
            "attest first: `securetf run`",
        )
    if member.key_id != key_id:
        raise _fenced(member)
    return member


def _replaced(member: MemberRow, session: SessionRow) -> ManifestHashError:
    return ManifestHashError(
        f"{member.workload}/{member.instance} attested with Manifest sha256:{member.manifest_hash.hex()}, "
        f"current in {session.name} is sha256:{session.manifest_hash.hex()}: it is no longer a member",
        "start it with the current Manifest: `securetf session show`",
    )


def _fenced(member: MemberRow) -> FencedError:
    return FencedError(
        f"another process attested as {member.workload}/{member.instance} since, generation "
        f"{member.generation}: this one is no longer the member",
        "stop; if you did not start a second one, look at `securetf audit show`",
    )


def _current(store: Store, session: SessionRow) -> list[MemberRow]:
    rows = rows_of(store, MemberRow, session.name.encode() + b"\0")
    return [row for row in rows if row.manifest_hash == session.manifest_hash and row.network_spki]


def _needed(manifest: Manifest) -> Sequence[tuple[str, int]]:
    return [
        (name, number)
        for name, workload in sorted(manifest.workloads.items())
        for number in range(workload.instances.minimum)
    ]


def _shown(row: MemberRow) -> MemberView:
    return MemberView(
        workload=row.workload,
        instance=row.instance,
        endpoint=row.endpoint or None,
        generation=row.generation,
        attested_at=row.attested_at,
        last_attested_at=row.last_attested_at,
        expires_at=row.expires_at,
    )
