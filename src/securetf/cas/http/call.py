"""What one call of `/v1` is: its row in the table, and one request of it."""

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from securetf.cas.service import AuditDraft, CasService, Connection
from securetf.cas.service.access import OwnerRequest
from securetf.cas.service.context import Refused
from securetf.cas.service.waiting import Waits
from securetf.errors import UsageError
from securetf.keys.signature import SignedRequest
from securetf.wire.messages import Message

_M = TypeVar("_M", bound=Message)


class Signed(StrEnum):
    """Who signs a call (RFC 9421)."""

    NOBODY = "nobody"
    OWNER = "owner"
    LEASE_HOLDER = "holder of the volume's lease"
    MEMBER = "member"
    OWNER_OR_MEMBER = "owner or member"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One request as decoded. `message` is of the call's request type."""

    service: CasService
    parameters: Mapping[str, str]
    query: Mapping[str, str]
    message: Message | None
    signed: SignedRequest | None
    draft: AuditDraft
    connection: Connection

    @property
    def session(self) -> str:
        """`tenant/name` from the path."""
        return f"{self.parameters['tenant']}/{self.parameters['name']}"

    def owner(self) -> OwnerRequest:
        """Authenticate the owner. Raises NotAuthorisedError."""
        return self.service.owners.authenticate(signature_of(self), self.draft)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call: either a `handler`, in a thread of its own, or quick `steps` that wait without one.

    inline: the handler answers from memory at once, so that it needs no thread.
    begin: hands a frequent call in without a thread that waits for the disk; when it raises, the handler is
    asked, which records the refusal. done: answers once that is durable, else with `Done`.
    """

    action: str
    method: str
    path: str
    summary: str
    response: type[Message]
    handler: Callable[[Incoming], Message] | None = None
    steps: Callable[[Incoming, Waits], Awaitable[Message]] | None = None
    request: type[Message] | None = None
    signed: Signed = Signed.NOBODY
    inline: bool = False
    begin: "Callable[[Incoming], Future[Refused | None]] | None" = None
    done: "Callable[[Incoming], Message] | None" = None
    query: tuple[str, ...] = field(default=())


def message_of(incoming: Incoming, kind: type[_M]) -> _M:
    """Return the request's message, which the table has had decoded as `kind`."""
    if not isinstance(incoming.message, kind):
        raise AssertionError(f"the table and the handler disagree about {kind.__name__}")
    return incoming.message


def signature_of(incoming: Incoming) -> SignedRequest:
    """Return the signature of a call that the table says is signed."""
    if incoming.signed is None:
        raise AssertionError("the table says that this call is signed")
    return incoming.signed


def volume_id_of(incoming: Incoming) -> bytes:
    """Return the volume's id from the path. Raises UsageError."""
    text = incoming.parameters["volume_id"]
    try:
        volume_id = bytes.fromhex(text)
    except ValueError:
        volume_id = b""
    if len(volume_id) != 16 or volume_id.hex() != text:
        raise UsageError("the volume id is not 32 lower-case hex digits", "send the id that the grant named")
    return volume_id
