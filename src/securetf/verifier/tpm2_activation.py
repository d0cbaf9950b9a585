"""Enrolment of an attestation key: proof that it lives in the TPM whose endorsement key is certified.

Sources: TPM 2.0 Library, Part 1, section 24 "Credential Protection" (MakeCredential), sections 11.4.10.2 and
11.4.10.3 (KDFa, KDFe) and annexes B.10.4, C.6.4; TCG EK Credential Profile 2.5. The seed and the ephemeral
key are arguments; only RSA-OAEP draws randomness of its own.
"""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import Issuers, KnownAk
from securetf.errors import BindingError, ConfigurationError, SignatureError
from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import SHA256
from securetf.evidence.tpm2_wire import number, sized
from securetf.verifier import certificate_path, revocation, tpm2_quote
from securetf.verifier.tpm2_origin import spki_sha256

SECRET_SIZE = SEED_SIZE = 32  # bytes
_HASH = "sha256"
_CHAIN = "the EK certificate chain"
_NO_ISSUERS = Issuers()
_FIX = "give the EK of the TCG default template with its certificate, as the TPM's NV memory has it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """What goes to the TPM: `credential` (TPMS_ID_OBJECT) and `encrypted_seed`, both without their outer
    sizes.
    """

    credential: bytes
    encrypted_seed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedEk:
    """An endorsement key whose certificate chain holds until `valid_until`. Only `check_ek` makes one."""

    public: Public
    key: tpm2_quote.PublicKey = field(repr=False)
    valid_until: datetime


def check_ek(
    public: Public,
    certificates: Sequence[bytes],
    *,
    anchors: TrustAnchors,
    now: datetime,
    issuers: Issuers = _NO_ISSUERS,
) -> CheckedEk:
    """Check an endorsement key under its manufacturer's root.

    certificates: DER, EK's first, then upwards. issuers: those above, if the root is not the last, and the
    revocation lists that the certificates name: `Library.obtain(IssuersNeed(chain=certificates))`.

    Raises:
        EndorsementError: a revocation list that a certificate names is missing or out of its window.
        SignatureError: the chain does not hold, or is of another key. ConfigurationError: not an endorsement
        key.
    """
    whole = (*certificates, *issuers.certificates)
    path = [certificate_path.load("an EK certificate", der) for der in whole]
    end = certificate_path.check(_CHAIN, path, anchors=anchors, now=now)
    end = min(end, revocation.check(_CHAIN, path, issuers.crls, now) or end)
    key = tpm2_quote.public_key(public)
    certified = path[0].public_key()
    if not isinstance(certified, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) or spki_sha256(
        certified
    ) != spki_sha256(key):
        raise SignatureError("the EK certificate is of another key than the endorsement key", _FIX)
    needed = tpm2_public.RESTRICTED | tpm2_public.DECRYPT | tpm2_public.FIXED_TPM | tpm2_public.FIXED_PARENT
    if public.attributes & needed != needed or public.attributes & tpm2_public.SIGN:
        raise ConfigurationError(
            "the key is not an endorsement key: restricted, decrypting, fixed to its TPM", _FIX
        )
    if public.name_hash != SHA256 or public.aes_bits != 128:
        raise ConfigurationError("the endorsement key is not of the templates with SHA-256 and AES-128", _FIX)
    return CheckedEk(public=public, key=key, valid_until=end)


def challenge(
    ek: CheckedEk, ak: Public, *, secret: bytes, seed: bytes, ephemeral: ec.EllipticCurvePrivateKey | None
) -> Challenge:
    """Return a challenge that only a TPM with both keys can answer with `secret`.

    secret, seed: 32 random bytes each. ephemeral: a fresh key on the EK's curve; only for an ECC EK, which
    derives its own seed and leaves `seed` unused.

    Raises:
        ConfigurationError: the attestation key's attributes, or the ephemeral key does not fit.
    """
    tpm2_quote.check_ak(ak)
    name = tpm2_public.name(ak)
    if isinstance(ek.key, rsa.RSAPublicKey):
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        encrypted = ek.key.encrypt(seed, oaep)
    else:
        seed, encrypted = _ecc_seed(ek.key, ephemeral)
    storage = kdfa(seed, b"STORAGE", name, ek.public.aes_bits)
    cipher = Cipher(algorithms.AES(storage), CFB(bytes(16))).encryptor()
    identity = cipher.update(sized(secret)) + cipher.finalize()
    integrity = hmac.digest(kdfa(seed, b"INTEGRITY", b"", 256), identity + name, _HASH)
    return Challenge(credential=sized(integrity) + identity, encrypted_seed=encrypted)


def enrol(ek: CheckedEk, ak: Public, *, secret: bytes, answer: bytes) -> KnownAk:
    """Return the enrolment if the TPM answered with the secret.

    Raises:
        BindingError: it did not.
    """
    if len(secret) != SECRET_SIZE or not hmac.compare_digest(secret, answer):
        raise BindingError(
            "the TPM did not open the challenge: attestation key and endorsement key are not in one TPM",
            "enrol with the keys of one machine and a new challenge",
        )
    return KnownAk(name=tpm2_public.name(ak), ek_sha256=spki_sha256(ek.key), valid_until=ek.valid_until)


def kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """Return KDFa with SHA-256: at most 256 bits, so one round."""
    return hmac.digest(key, number(1, 4) + label + b"\0" + context + number(bits, 4), _HASH)[: bits // 8]


def _ecc_seed(
    key: ec.EllipticCurvePublicKey, ephemeral: ec.EllipticCurvePrivateKey | None
) -> tuple[bytes, bytes]:
    if ephemeral is None or ephemeral.curve.name != key.curve.name:
        raise ConfigurationError("an ECC endorsement key needs an ephemeral key on its curve", _FIX)
    size = (key.curve.key_size + 7) // 8
    ours, theirs = ephemeral.public_key().public_numbers(), key.public_numbers()
    shared = ephemeral.exchange(ec.ECDH(), key)
    x, y = number(ours.x, size), number(ours.y, size)
    info = shared + b"IDENTITY\0" + x + number(theirs.x, size)
    return hashlib.sha256(number(1, 4) + info).digest(), sized(x) + sized(y)
