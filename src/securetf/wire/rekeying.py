"""Messages of re-keying. docs/formats/wire-v1.md"""

from typing import Annotated

from msgspec import Meta

from securetf.wire.messages import Epoch, Message, Sequence


class RekeyResponse(Message, frozen=True, kw_only=True):
    """key_version: of the newest key. writer: the workload that seals the volume anew; None: owners do."""

    key_version: Annotated[int, Meta(ge=1, lt=2**32)]
    writer: str | None


class KeyEndRequest(Message, frozen=True, kw_only=True):
    """Nothing from the state `seq` on, which the writer of `epoch` has anchored, needs the older key."""

    epoch: Epoch
    seq: Sequence
