"""The calls about TPMs."""

from securetf.cas.http.call import Call, Incoming, message_of
from securetf.wire.messages import Message
from securetf.wire.tpm import (
    CasTpmRequest,
    CasTpmResponse,
    TpmChallengeRequest,
    TpmChallengeResponse,
    TpmEnrolRequest,
    TpmEnrolResponse,
)


def _challenge(incoming: Incoming) -> Message:
    return incoming.service.tpms.challenge(message_of(incoming, TpmChallengeRequest))


def _enrol(incoming: Incoming) -> Message:
    return incoming.service.tpms.enrol(message_of(incoming, TpmEnrolRequest), incoming.draft)


def _of_cas(incoming: Incoming) -> Message:
    return incoming.service.tpms.of_cas(message_of(incoming, CasTpmRequest))


TPM_CALLS = (
    Call(
        action="evidence.tpm",
        method="POST",
        path="/v1/evidence/tpm",
        summary="The keys of the CAS's own TPM, and its answer to the caller's challenge.",
        request=CasTpmRequest,
        response=CasTpmResponse,
        handler=_of_cas,
    ),
    Call(
        action="tpm.challenge",
        method="POST",
        path="/v1/tpm/challenge",
        summary="A challenge that only the TPM with these two keys can open.",
        request=TpmChallengeRequest,
        response=TpmChallengeResponse,
        handler=_challenge,
    ),
    Call(
        action="tpm.enrol",
        method="POST",
        path="/v1/tpm/enrol",
        summary="The TPM's answer; its attestation key counts from then on.",
        request=TpmEnrolRequest,
        response=TpmEnrolResponse,
        handler=_enrol,
    ),
)
