"""Owners: whose request this is, that it is new, and what the Manifest lets its key do."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from securetf.cas.service.context import Context
from securetf.cas.service.entries import AuditDraft
from securetf.cas.service.rows import SessionRow, no_session
from securetf.cas.store import Store, Transaction
from securetf.errors import NotAuthorisedError, SecuretfError
from securetf.keys.signature import SignedRequest

WINDOW_S = 300  # a signature is taken this many seconds before and after its `created`
_TABLE, _FLOOR = "nonce", b"floor"
_KEEP_S = 2 * WINDOW_S
_PURGE_AT = 64  # remove this many expired nonces at once


class ReplayGuard:
    """Remembers each signed request durably until its window has passed.

    Table `nonce`: key created (8 bytes, big endian) ‖ key id ‖ NUL ‖ nonce, empty value; key `floor`: the
    newest `created` that was forgotten; nothing as old as that is taken again, even if the clock is turned
    back.
    """

    def __init__(self, store: Store) -> None:
        self._known = deque(key for key in store.keys(_TABLE, b"") if key != _FLOOR)
        floor = store.get(_TABLE, _FLOOR)
        self._floor = 0 if floor is None else int.from_bytes(floor, "big")

    def consume(self, transaction: Transaction, signed: SignedRequest, now_s: int) -> None:
        """Take this request once. Runs on the store's writer thread only.

        Raises:
            NotAuthorisedError: it was taken before.
        """
        key = signed.created.to_bytes(8, "big") + f"{signed.key_id}\0{signed.nonce}".encode()
        if signed.created <= self._floor or transaction.get(_TABLE, key) is not None:
            raise NotAuthorisedError(
                "this signed request was used before",
                "sign again with a fresh nonce; if you did not repeat it, "
                "someone else did: look at `securetf audit show`",
            )
        transaction.put(_TABLE, key, b"1")
        self._known.append(key)
        self._purge(transaction, now_s)

    def _purge(self, transaction: Transaction, now_s: int) -> None:
        limit = (max(0, now_s - _KEEP_S)).to_bytes(8, "big")
        if len(self._known) < _PURGE_AT or self._known[_PURGE_AT - 1][:8] > limit:
            return
        for _ in range(_PURGE_AT):
            key = self._known[0]
            if key[:8] > limit:
                break
            self._known.popleft()
            transaction.delete(_TABLE, key)
            self._floor = max(self._floor, int.from_bytes(key[:8], "big"))
        transaction.put(_TABLE, _FLOOR, self._floor.to_bytes(8, "big"))


@dataclass(frozen=True, slots=True)
class OwnerRequest:
    """A request whose signature by an owner's key holds. Whether it is new shows when it is consumed."""

    signed: SignedRequest
    guard: ReplayGuard
    now_s: int

    @property
    def key_id(self) -> str:
        """`ed25519:<hex>`."""
        return self.signed.key_id

    def consume(self, transaction: Transaction) -> None:
        """Take the request, once. Raises NotAuthorisedError for a repetition."""
        self.guard.consume(transaction, self.signed, self.now_s)


class Owners:
    """Authenticates owners."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._guard = ReplayGuard(context.store)

    def authenticate(self, signed: SignedRequest, draft: AuditDraft) -> OwnerRequest:
        """Check window, CAS and signature.

        Raises:
            NotAuthorisedError: made for another CAS, outside the window, or the signature does not hold.
        """
        draft.actor = signed.key_id
        try:
            now_s = check_window(self._context, signed)
            signed.verify()
        except SecuretfError as error:
            self._context.record_refusal(draft, error)
            raise
        return OwnerRequest(signed, self._guard, now_s)


def check_window(context: Context, signed: SignedRequest) -> int:
    """Check that a request is for this CAS and of now; return the time in Unix seconds.

    Raises:
        NotAuthorisedError: it is not.
    """
    if signed.cas != context.identity.spki_sha256:
        raise NotAuthorisedError(
            f"the request was signed for the CAS {signed.cas[:64]}, this one is "
            f"{context.identity.spki_sha256}",
            "use the trust file of this CAS",
        )
    now_s = int(context.clock.now().timestamp())
    if abs(now_s - signed.created) > WINDOW_S:
        raise NotAuthorisedError(
            f"the request was signed at {signed.created}, the CAS's clock says {now_s}: more than "
            f"{WINDOW_S} s apart",
            "set both clocks, then sign again",
        )
    return now_s


def require_read(context: Context, session: SessionRow, key_id: str) -> None:
    """Raise NotFoundError unless `[access]` lets this key read; updaters may read too."""
    access = context.manifest_of(session).access
    if not names(session, access.read, key_id) and not names(session, access.update, key_id):
        raise no_session(session.name)


def require_update(context: Context, session: SessionRow, key_id: str) -> None:
    """Raise NotAuthorisedError (NotFoundError for who may not even read) unless this key may update."""
    require_read(context, session, key_id)
    if not names(session, context.manifest_of(session).access.update, key_id):
        raise NotAuthorisedError(
            f"{key_id} is not in `[access] update` of {session.name}",
            "let a key that is there make the change",
        )


def names(session: SessionRow, entries: Sequence[str], key_id: str) -> bool:
    """Tell whether a list of the Manifest names this key, by itself or as `creator`."""
    return key_id in entries or ("creator" in entries and key_id == session.creator)
