"""What holds for every TPM quote, whoever vouches for its key (docs/platforms.md, "TPM 2.0", same
numbers).
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from securetf.errors import (
    BindingError,
    ConfigurationError,
    MalformedEvidenceError,
    SignatureError,
)
from securetf.evidence import tcg_event_log, tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import (
    DIGEST_SIZES,
    ECDSA,
    HASH_NAMES,
    RSAPSS,
    RSASSA,
    SHA1,
    SHA256,
    SHA384,
    SHA512,
    Quote,
    Signature,
    encode_quote,
)

STEPS = (
    "framing: exact bytes",
    "attestation key: restricted, fixed to its TPM",
    "certificate chain or enrolment of the attestation key",
    "signature of the quote",
    "PCR values: those quoted, no sha1",
    "event log: replays to the PCRs of the firmware",
    "binding: extra data",
)
FIRMWARE_PCRS = range(
    10
)  # firmware, boot loader and its configuration; later ones are the OS's, not the log's

_KEYS, _LOGS = 512, 64  # machines kept by `KnownTpms`, and their event logs of up to half a megabyte
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_HASHES: dict[int, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    SHA256: hashes.SHA256,
    SHA384: hashes.SHA384,
    SHA512: hashes.SHA512,
}
_CURVES: dict[int, type[ec.EllipticCurve]] = {
    tpm2_public.P256: ec.SECP256R1,
    tpm2_public.P384: ec.SECP384R1,
    tpm2_public.P521: ec.SECP521R1,
}
_MUST = (
    (tpm2_public.RESTRICTED, "restricted: it signs whatever it is given, a forged quote too"),
    (tpm2_public.SIGN, "a signing key"),
    (tpm2_public.FIXED_TPM, "fixedTPM: it may be copied to another TPM"),
    (tpm2_public.FIXED_PARENT, "fixedParent: it may be copied to another TPM"),
    (tpm2_public.SENSITIVE_ORIGIN, "made by the TPM (sensitiveDataOrigin): others may have it"),
)
_AGAIN = "attest again with a new challenge"
_AK = "make the attestation key anew with securetf's attester"


def check_ak(ak: Public) -> None:
    """Check that a key with this public area signs nothing but what its TPM says of itself.

    The attributes are authentic once the key's name is, or once its certificate's issuer looked at them.

    Raises:
        ConfigurationError: naming the attribute.
    """
    for bit, meaning in _MUST:
        if not ak.attributes & bit:
            raise ConfigurationError(f"the attestation key is not {meaning}", _AK)
    if ak.attributes & tpm2_public.DECRYPT:
        raise ConfigurationError("the attestation key may also decrypt", _AK)
    if ak.name_hash == SHA1:
        raise ConfigurationError("the attestation key's name is by SHA-1", _AK)


def public_key(public: Public) -> PublicKey:
    """Return the key of a public area.

    Raises:
        MalformedEvidenceError: not a point of its curve, an exponent other than 65537, fewer than 2048 bits.
    """
    try:
        if public.kind == tpm2_public.ECC:
            x, y = (int.from_bytes(part, "big") for part in public.unique)
            return ec.EllipticCurvePublicNumbers(x, y, _CURVES[public.curve]()).public_key()
        if public.exponent not in {0, 65537} or public.bits < 2048:
            raise ValueError(f"{public.bits} bits and exponent {public.exponent}")
        return rsa.RSAPublicNumbers(65537, int.from_bytes(public.unique[0], "big")).public_key()
    except ValueError as error:
        raise MalformedEvidenceError(f"the TPM key cannot be used: {error}", _AK) from None


def check_signature(quote: Quote, signature: Signature, key: PublicKey) -> None:
    """Check the attestation key's signature over a quote (TPM 2.0 Library, Part 1, section 31.2).

    Raises:
        SignatureError: it does not hold, or is over SHA-1.
    """
    digest = _HASHES.get(signature.hash)
    if digest is None:
        raise SignatureError("the TPM quote is signed over SHA-1", "make the attestation key with SHA-256")
    try:
        _verify(key, signature, encode_quote(quote), digest())
    except (InvalidSignature, ValueError):
        raise SignatureError("the TPM quote's signature does not hold", _AGAIN) from None


def check_pcrs(quote: Quote, signature: Signature, pcrs: Mapping[int, bytes]) -> None:
    """Check that these values are the ones quoted (Part 3, section 18.4: hash by the scheme's algorithm).

    Raises:
        ConfigurationError: the SHA-1 bank, or no PCR. SignatureError: other values.
    """
    if quote.bank == SHA1:
        raise ConfigurationError("the quote is over the sha1 PCR bank", "quote the sha256 bank")
    if not quote.selection:
        raise ConfigurationError("the quote covers no PCR", "quote the PCRs that the policy names")
    size = DIGEST_SIZES[quote.bank]
    if tuple(sorted(pcrs)) != quote.selection or any(len(value) != size for value in pcrs.values()):
        raise SignatureError("the PCR values are not of the indices and the bank that were quoted", _AGAIN)
    whole = b"".join(pcrs[index] for index in quote.selection)
    if not hmac.compare_digest(hashlib.new(HASH_NAMES[signature.hash], whole).digest(), quote.pcr_digest):
        raise SignatureError("the PCR values are not the ones that the TPM quoted", _AGAIN)


def replay(raw: bytes, bank: int) -> Mapping[int, bytes]:
    """Return the PCRs of a bank that an event log gives.

    Raises:
        MalformedEvidenceError: unreadable.
    """
    return tcg_event_log.replay(tcg_event_log.parse(raw), bank)


@dataclass(frozen=True, slots=True)
class KnownTpms:
    """`public_key` and `replay`, each with a bounded memory: one machine's are the same until it boots again.

    Thread-safe. Both depend on bytes alone, refusals are not kept, forgetting all of it changes no answer.
    """

    public_key: Callable[[Public], PublicKey] = field(default_factory=lambda: lru_cache(_KEYS)(public_key))
    replay: Callable[[bytes, int], Mapping[int, bytes]] = field(
        default_factory=lambda: lru_cache(_LOGS)(replay)
    )


def check_event_log(
    raw: bytes, quote: Quote, pcrs: Mapping[int, bytes], known: KnownTpms | None = None
) -> None:
    """Check that an event log explains each quoted PCR of the firmware, 0 to 9.

    Raises:
        MalformedEvidenceError: unreadable. SignatureError: naming the PCRs that its replay does not give.
    """
    replayed = (known or KnownTpms()).replay(raw, quote.bank)
    differing = [index for index in FIRMWARE_PCRS if index in pcrs and replayed[index] != pcrs[index]]
    if differing:
        raise SignatureError(
            f"the event log does not replay to the quoted PCRs {differing}: "
            "an event is missing, repeated or altered",
            "send the whole log of this boot",
        )


def check_extra_data(quote: Quote, expected: bytes) -> None:
    """Check that the quote carries this value.

    Raises:
        BindingError: another one, or none was expected.
    """
    if not expected:
        raise BindingError("no value was given that the quote must carry", "give nonce or report data")
    if not hmac.compare_digest(quote.extra_data, expected):
        raise BindingError(
            "the quote's extra data is not the one expected",
            "attest again with a new challenge; if it persists, something relays between you and the CAS",
        )


def registers(pcrs: Mapping[int, bytes]) -> dict[str, bytes]:
    """Return PCRs under their claims' names: `pcr0` to `pcr23`."""
    return {f"pcr{index}": value for index, value in pcrs.items()}


def properties(quote: Quote) -> dict[str, int | str]:
    """Return what shows whether a TPM was reset, resumed or put back to an older state since the last
    quote.
    """
    return {
        "bank": HASH_NAMES[quote.bank],
        "clock_ms": quote.clock,
        "reset_count": quote.reset_count,
        "restart_count": quote.restart_count,
        "firmware": f"{quote.firmware:#018x}",
    }


def _verify(key: PublicKey, signature: Signature, data: bytes, digest: hashes.HashAlgorithm) -> None:
    if isinstance(key, rsa.RSAPublicKey) and signature.scheme in {RSASSA, RSAPSS}:
        (value,) = signature.parts
        # TPMs salt with as many bytes as fit, or as the digest has (FIPS 186-5); both are PSS.
        pss = padding.PSS(padding.MGF1(digest), padding.PSS.AUTO)
        key.verify(value, data, padding.PKCS1v15() if signature.scheme == RSASSA else pss, digest)
    elif isinstance(key, ec.EllipticCurvePublicKey) and signature.scheme == ECDSA:
        r, s = (int.from_bytes(part, "big") for part in signature.parts)
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))
    else:
        raise ValueError("scheme and key do not belong together")
