"""The call of going back to an older root."""

from securetf.cas.http.call import Call, Incoming, Signed, message_of
from securetf.wire import Done
from securetf.wire.messages import Message
from securetf.wire.restoring import AcceptRootRequest


def _accept(incoming: Incoming) -> Message:
    request, volume = message_of(incoming, AcceptRootRequest), incoming.parameters["volume"]
    incoming.service.restoring.accept(incoming.owner(), incoming.draft, incoming.session, volume, request)
    return Done()


RESTORING_CALLS = (
    Call(
        action="volume.accept-root",
        method="POST",
        path="/v1/sessions/{tenant}/{name}/volumes/{volume}/accept-root",
        summary="Let a volume stand at an older root, that of a backup. Fences its writer.",
        request=AcceptRootRequest,
        response=Done,
        handler=_accept,
        signed=Signed.OWNER,
    ),
)
