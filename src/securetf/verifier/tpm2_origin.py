"""Who vouches for a TPM's attestation key: a certificate chain under a pinned root, or an enrolment.

Sources: TCG EK Credential Profile 2.5; TCG "TPM 2.0 Keys for Device Identity and Attestation", section 5.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import Issuers, KnownAk
from securetf.errors import SignatureError, SimulationRefusedError
from securetf.evidence import tpm2_public
from securetf.evidence.tpm2_public import Public
from securetf.verifier import certificate_path, revocation
from securetf.verifier.certificate_path import KnownPaths
from securetf.verifier.tpm2_quote import PublicKey, public_key

IssuersFor = Callable[[tuple[bytes, ...]], Issuers | None]
EnrolmentOf = Callable[[bytes], KnownAk | None]  # name of an AK to its enrolment

_KEYS = 512  # keys and certificates whose properties are kept
_CHAIN = "the TPM certificate chain"
_ENROL = "enrol this TPM's attestation key, or use one whose certificate chain ends in a pinned root"
# tcg-kp-EKCertificate, which Google's AK certificates have too, and tcg-kp-AIKCertificate
_PURPOSES = {ObjectIdentifier("2.23.133.8.1"), ObjectIdentifier("2.23.133.8.3")}


class KeyOrigins:
    """What a verifier of TPM quotes believes about attestation keys."""

    def __init__(
        self,
        anchors: TrustAnchors,
        enrolment_of: EnrolmentOf,
        *,
        authorities: Iterable[bytes] = (),
        revoked: frozenset[bytes] = frozenset(),
        issuers_for: IssuersFor = lambda _: None,
        known: "KnownOrigins | None" = None,
    ) -> None:
        """Configure.

        anchors: roots whose AK certificates count, such as `TrustAnchors.google_tpm()`; may be empty.
        enrolment_of: what is known of an AK without certificate. authorities: DER certificates that complete
        a chain which came without its upper end; not trusted for being here. revoked: SHA-256 of the
        SubjectPublicKeyInfo of keys that no longer count. issuers_for: certificates as they came, DER, to
        those above them and the revocation lists that the chain names; None when there are none. known: what
        the caller keeps from one configuration to the next.

        Raises:
            SimulationRefusedError: the anchors are development roots.
        """
        if anchors.development:
            raise SimulationRefusedError(
                "the verifier of TPMs was given a development root",
                "pin the roots of your TPMs' manufacturers",
            )
        self._anchors, self._enrolment_of, self._revoked = anchors, enrolment_of, revoked
        self._known, self._issuers_for = known or KnownOrigins(), issuers_for
        loaded = [certificate_path.load("an authority", der) for der in authorities]
        self._authorities = {certificate.subject: certificate for certificate in loaded}

    def check(
        self, ak: Public, key: PublicKey, certificates: Sequence[bytes], now: datetime
    ) -> tuple[bytes, datetime]:
        """Return the machine's identity, and until when it is vouched for.

        ak, key: the attestation key, as public area and as key. certificates: DER, of the AK first; none if
        it must be enrolled. The identity is SHA-256 of the SubjectPublicKeyInfo of the EK, or of a certified
        AK.

        Raises:
            SignatureError: nobody vouches for the key, or no longer.
        """
        if certificates:
            return self._certified(ak, certificates, now)
        name = tpm2_public.name(ak)
        known = self._enrolment_of(name)
        if known is None or known.name != name:
            raise SignatureError("the attestation key is neither certified nor enrolled", _ENROL)
        if now > known.valid_until:
            raise SignatureError(
                f"the attestation key's enrolment ended at {known.valid_until:%F %T}", _ENROL
            )
        if self._revoked and self._revoked & {spki_sha256(key), known.ek_sha256}:
            raise SignatureError("the TPM's key is revoked", "do not use this machine")
        return known.ek_sha256, known.valid_until

    def _certified(self, ak: Public, certificates: Sequence[bytes], now: datetime) -> tuple[bytes, datetime]:
        issuers = self._issuers_for(tuple(certificates)) or Issuers()
        paths = self._known.paths
        path = [paths.load("a TPM certificate", der) for der in certificates]
        given = [paths.load("a TPM certificate", der) for der in issuers.certificates]
        authorities = self._authorities | {certificate.subject: certificate for certificate in given}
        while path[-1].issuer != path[-1].subject and len(path) < certificate_path.PATH_LIMIT:
            above = authorities.get(path[-1].issuer)
            if above is None:
                break
            path.append(above)
        end = certificate_path.check(
            _CHAIN, path, anchors=self._anchors, now=now, revoked=self._revoked, known=paths
        )
        end = min(end, revocation.check(_CHAIN, path, issuers.crls, now) or end)
        digest = self._known.digest(ak)
        if paths.digest(path[0]) != digest:
            raise SignatureError("the certificate is of another key than the attestation key", _ENROL)
        self._known.check_purpose(path[0])
        return digest, end


def _ak_digest(ak: Public) -> bytes:
    return spki_sha256(public_key(ak))


def _check_purpose(certificate: x509.Certificate) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        purposes = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        purposes = set()
    if not purposes & _PURPOSES or not usage.digital_signature:
        raise SignatureError("the certificate is not of a TPM's attestation key", _ENROL)


@dataclass(frozen=True, slots=True)
class KnownOrigins:
    """What depends on the bytes of attestation keys and certificates alone, each with a bounded memory.

    Thread-safe. As of `KnownPaths`: no time, anchor, enrolment or revocation is in it, refusals are not kept,
    and forgetting all of it changes no answer.
    """

    paths: KnownPaths = field(default_factory=KnownPaths)
    digest: Callable[[Public], bytes] = field(default_factory=lambda: lru_cache(_KEYS)(_ak_digest))
    check_purpose: Callable[[x509.Certificate], None] = field(
        default_factory=lambda: lru_cache(_KEYS)(_check_purpose)
    )


def spki_sha256(key: PublicKey) -> bytes:
    """Return SHA-256 over a key's DER SubjectPublicKeyInfo."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
