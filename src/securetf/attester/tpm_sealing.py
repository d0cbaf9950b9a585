"""Secrets that a TPM gives back only while its PCRs have the values of the time of sealing.

Sources: TPM 2.0 Library, Part 1, section 19.7.7 (TPM2_PolicyPCR); Part 3, sections 12.1 (Create), 12.7
(Unseal), 23.7 (PolicyPCR); TCG TPM v2.0 Provisioning Guidance, section 7.5.1 (storage primary key).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from securetf.attester.tpm_client import ALGORITHM_NULL, OWNER, PASSWORD, TpmClient
from securetf.errors import AttesterError, MalformedEvidenceError, TpmResponseError
from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import SHA256, encode_selection
from securetf.evidence.tpm2_wire import Reader, number, sized

SECRET_SIZE_LIMIT = 128  # bytes; MAX_SYM_DATA
_MAGIC = b"STFSEAL\x01"
_POLICY_PCR = number(0x17F, 4)  # TPM_CC_PolicyPCR
_KEYED_HASH = 0x0008  # TPM_ALG_KEYEDHASH
# No userWithAuth: only the policy opens it.
_SEALED_ATTRIBUTES = tpm2_public.FIXED_TPM | tpm2_public.FIXED_PARENT | tpm2_public.NO_DA
_STORAGE = Public(
    kind=tpm2_public.ECC,
    name_hash=SHA256,
    attributes=(
        tpm2_public.FIXED_TPM | tpm2_public.FIXED_PARENT | tpm2_public.SENSITIVE_ORIGIN | tpm2_public.NO_DA
        | tpm2_public.USER_WITH_AUTH | tpm2_public.RESTRICTED | tpm2_public.DECRYPT
    ),
    auth_policy=b"",
    aes_bits=128,
    scheme=tpm2_public.NULL,
    scheme_hash=0,
    curve=tpm2_public.P256,
    unique=(bytes(32), bytes(32)),
)  # fmt: skip
_FIX = "start the machine with what it had booted when the secret was sealed"


@dataclass(frozen=True, slots=True)
class _Sealed:
    pcrs: tuple[int, ...]
    private: bytes
    public: bytes


def seal(client: TpmClient, secret: bytes, pcrs: Sequence[int]) -> bytes:
    """Return a blob that only this TPM opens, while these PCRs (SHA-256 bank) are as now. Not secret itself.

    Raises:
        AttesterError: the TPM refused.
    """
    chosen = tuple(sorted(pcrs))
    values = client.read_pcrs(SHA256, chosen)
    digest = hashlib.sha256(b"".join(values[index] for index in chosen)).digest()
    policy = hashlib.sha256(bytes(32) + _POLICY_PCR + encode_selection(SHA256, chosen) + digest).digest()
    template = b"".join(
        (
            number(_KEYED_HASH, 2),
            number(SHA256, 2),
            number(_SEALED_ATTRIBUTES, 4),
            sized(policy),
            number(ALGORITHM_NULL, 2),
            sized(b""),
        )
    )
    storage, _ = client.create_primary(OWNER, tpm2_public.encode(_STORAGE))
    try:
        sensitive = sized(sized(b"") + sized(secret))
        parameters = sensitive + sized(template) + sized(b"") + number(0, 4)
        reader = client.command("Create", 0x153, number(storage, 4), parameters, [PASSWORD])
        private, public = reader.sized("private part", 2048), reader.sized("public part", 2048)
    finally:
        client.flush(storage)
    return _MAGIC + sized(bytes(chosen)) + sized(private) + sized(public)


def unseal(client: TpmClient, blob: bytes) -> bytes:
    """Return the secret.

    Raises:
        AttesterError: another TPM's, the PCRs have changed since, or the blob cannot be read.
    """
    sealed = _parse(blob)
    storage, _ = client.create_primary(OWNER, tpm2_public.encode(_STORAGE))
    try:
        handle = client.load(storage, sealed.private, sealed.public, PASSWORD)
    except TpmResponseError as error:
        raise AttesterError(f"the secret is sealed to another TPM: {error.problem}", _FIX) from None
    finally:
        client.flush(storage)
    session = client.policy_session()
    try:
        parameters = sized(b"") + encode_selection(SHA256, sealed.pcrs)
        client.command("PolicyPCR", 0x17F, number(session, 4), parameters, None)
        reader = client.command("Unseal", 0x15E, number(handle, 4), b"", [session])
        return reader.sized("secret", SECRET_SIZE_LIMIT)
    except TpmResponseError as error:
        raise AttesterError(
            f"PCRs {list(sealed.pcrs)} are not those of the time of sealing: {error.problem}", _FIX
        ) from None
    finally:
        client.flush(handle)
        client.flush(session)


def _parse(blob: bytes) -> _Sealed:
    try:
        reader = Reader(blob, "sealed secret")
        if reader.take("magic", len(_MAGIC)) != _MAGIC:
            reader.refuse("does not start with STFSEAL and version 1")
        pcrs = tuple(reader.sized("PCRs", 24))
        if list(pcrs) != sorted(set(pcrs)) or not pcrs or pcrs[-1] > 23:
            reader.refuse("names no PCRs, or not in order")
        sealed = _Sealed(pcrs, reader.sized("private part", 2048), reader.sized("public part", 2048))
        reader.end()
    except MalformedEvidenceError as error:
        raise AttesterError(error.problem, "restore the file from a backup") from None
    return sealed
