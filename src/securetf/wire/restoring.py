"""Messages of going back to an older root. docs/formats/wire-v1.md"""

from securetf.wire.messages import Digest, Message, Sequence


class AcceptRootRequest(Message, frozen=True, kw_only=True):
    """The volume, which the owner saw at (seen_seq, seen_root), is to stand at the older (seq, root)."""

    seen_seq: Sequence
    seen_root: Digest
    seq: Sequence
    root: Digest
