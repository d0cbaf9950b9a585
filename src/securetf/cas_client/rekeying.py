"""Re-keying of volumes, as owners begin and writers end it."""

from securetf.cas_client.client import CasClient
from securetf.cas_client.membership import segment, session_path
from securetf.keys import OwnerKey
from securetf.wire import Done
from securetf.wire.rekeying import KeyEndRequest, RekeyResponse


def begin_rekey(client: CasClient, session: str, volume: str, owner_key: OwnerKey) -> RekeyResponse:
    """Have the CAS make the next key of a volume, unless one is on its way.

    Raises:
        ConflictError: the volume was never written.
    """
    target = f"{session_path(session)}/volumes/{segment(volume)}/rekey"
    return client.ask(target, None, RekeyResponse, signer=owner_key)


def end_rekey(client: CasClient, volume_id: bytes, *, epoch: int, seq: int) -> None:
    """Say that nothing from the anchored state `seq` on needs the older key, which the CAS then forgets.

    Raises:
        FencedError, ConflictError: as `CasClient.advance`.
    """
    message = KeyEndRequest(epoch=epoch, seq=seq)
    target = f"/v1/volumes/{volume_id.hex()}/key-end"
    client.ask(target, message, Done, signer=client.writer_of(volume_id))
