"""Going back to an older root of a volume."""

from securetf.cas_client.client import CasClient
from securetf.cas_client.membership import segment, session_path
from securetf.keys import OwnerKey
from securetf.provisioning import VolumeGrant
from securetf.wire import Done
from securetf.wire.restoring import AcceptRootRequest


def accept_root(
    client: CasClient, session: str, seen: VolumeGrant, seq: int, root: bytes, owner_key: OwnerKey
) -> None:
    """Let the volume stand at (seq, root) if it is still where the grant `seen` says.

    Raises:
        ConflictError: it is not, or stands there already.
    """
    message = AcceptRootRequest(seen_seq=seen.seq, seen_root=seen.root, seq=seq, root=root)
    target = f"{session_path(session)}/volumes/{segment(seen.name)}/accept-root"
    client.ask(target, message, Done, signer=owner_key)
