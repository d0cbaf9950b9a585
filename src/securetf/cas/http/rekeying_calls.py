"""The calls of re-keying."""

from securetf.cas.http.call import Call, Incoming, Signed, message_of, signature_of, volume_id_of
from securetf.wire import Done
from securetf.wire.messages import Message
from securetf.wire.rekeying import KeyEndRequest, RekeyResponse


def _begin(incoming: Incoming) -> Message:
    rekeying, volume = incoming.service.rekeying, incoming.parameters["volume"]
    return rekeying.begin(incoming.owner(), incoming.draft, incoming.session, volume)


def _end(incoming: Incoming) -> Message:
    signed, request = signature_of(incoming), message_of(incoming, KeyEndRequest)
    incoming.service.rekeying.end(signed, incoming.draft, volume_id_of(incoming), request)
    return Done()


REKEYING_CALLS = (
    Call(
        action="volume.rekey",
        method="POST",
        path="/v1/sessions/{tenant}/{name}/volumes/{volume}/rekey",
        summary="The next key of a volume, which its next writer seals it anew under.",
        response=RekeyResponse,
        handler=_begin,
        signed=Signed.OWNER,
    ),
    Call(
        action="volume.key-end",
        method="POST",
        path="/v1/volumes/{volume_id}/key-end",
        summary="Nothing needs the older key of a volume any more: the CAS forgets it.",
        request=KeyEndRequest,
        response=Done,
        handler=_end,
        signed=Signed.LEASE_HOLDER,
    ),
)
