"""Enrolment of this machine's TPM at a CAS."""

from collections.abc import Sequence

from securetf.attester.tpm2 import Tpm2Attester
from securetf.cas_client.client import CasClient
from securetf.errors import AttesterError
from securetf.evidence import tpm2_public
from securetf.wire.tpm import (
    TpmChallengeRequest,
    TpmChallengeResponse,
    TpmEnrolRequest,
    TpmEnrolResponse,
    TpmKeys,
)


def keys_of(attester: Tpm2Attester, issuers: Sequence[bytes] = ()) -> TpmKeys:
    """Return what shows whose TPM this is. issuers: DER, above the endorsement key's certificate.

    Raises:
        AttesterError: the TPM holds no certificate.
    """
    certificate = attester.ek_certificate()
    if certificate is None:
        raise AttesterError(
            "the TPM holds no certificate of its endorsement key",
            "ask its manufacturer for it; a TPM that nobody certified cannot be told from a made-up one",
        )
    return TpmKeys(
        ek_public=tpm2_public.encode(attester.ek_public),
        ek_certificates=[certificate, *issuers],
        ak_public=tpm2_public.encode(attester.ak_public),
    )


def enrol(client: CasClient, attester: Tpm2Attester, issuers: Sequence[bytes] = ()) -> TpmEnrolResponse:
    """Have the CAS challenge this TPM, answer, and return what the CAS now knows.

    Raises:
        AttesterError: the TPM has no certificate, or does not open the challenge. EvidenceError: the CAS does
        not take it, and why.
    """
    keys = keys_of(attester, issuers)
    fields = {name: getattr(keys, name) for name in TpmKeys.__struct_fields__}
    found = client.ask("/v1/tpm/challenge", TpmChallengeRequest(**fields), TpmChallengeResponse)
    secret = attester.answer(found.credential, found.encrypted_seed)
    request = TpmEnrolRequest(**fields, ticket=found.ticket, secret=secret)
    return client.ask("/v1/tpm/enrol", request, TpmEnrolResponse)
