"""What an enrolment found out about a TPM's attestation key, and what stands above its certificate."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.endorsements.dcap import strict_json
from securetf.endorsements.trust import UNREADABLE
from securetf.errors import EndorsementError

_FIX = "enrol the machine again"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAk:
    """A TPM proved by ActivateCredential that it holds both this AK and a certified endorsement key.

    name: TPM name of the AK, 34 bytes for SHA-256; covers its attributes. ek_sha256: SHA-256 of the EK's DER
    SubjectPublicKeyInfo, the machine's identity. valid_until: end of the EK's certificate chain, UTC.
    """

    name: bytes
    ek_sha256: bytes
    valid_until: datetime

    def to_json(self) -> str:
        """Return the JSON form that `from_json` reads."""
        return json.dumps(
            {
                "name": self.name.hex(),
                "ek_sha256": self.ek_sha256.hex(),
                "valid_until": self.valid_until.isoformat(),
            }
        )

    @staticmethod
    def from_json(text: str | bytes) -> "KnownAk":
        """Read the JSON form: one object with exactly the three names.

        Raises:
            EndorsementError: another form.
        """
        found: Any = strict_json(text, "the enrolment")
        try:
            if sorted(found) != ["ek_sha256", "name", "valid_until"]:
                raise ValueError("other names than ek_sha256, name, valid_until")
            known = KnownAk(
                name=bytes.fromhex(found["name"]),
                ek_sha256=bytes.fromhex(found["ek_sha256"]),
                valid_until=datetime.fromisoformat(found["valid_until"]),
            )
            if len(known.ek_sha256) != 32 or len(known.name) < 34 or known.valid_until.tzinfo is None:
                raise ValueError("a value has the wrong size or no time zone")
        except (TypeError, ValueError) as error:
            raise EndorsementError(f"the enrolment cannot be used: {error}", _FIX) from None
        return known


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuers:
    """What stands above a TPM's certificate, in DER, not authenticated: the verifier checks all of it.

    certificates: issuers that did not come with the Evidence, upwards. crls: of each list that the chain
    names.
    """

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()


def issuers_of(files: Iterable[bytes]) -> Issuers:
    """Sort files of issuers' certificates and revocation lists, each in DER, or in PEM with several.

    Raises:
        EndorsementError: a file is neither.
    """
    certificates: list[bytes] = []
    crls: list[bytes] = []
    for content in files:
        try:
            if b"-----BEGIN X509 CRL" in content[:64]:
                crls.append(x509.load_pem_x509_crl(content).public_bytes(Encoding.DER))
            elif b"-----BEGIN" in content[:64]:
                found = x509.load_pem_x509_certificates(content)
                certificates += [one.public_bytes(Encoding.DER) for one in found]
            else:
                (certificates if _is_certificate(content) else crls).append(content)
        except UNREADABLE as error:
            raise EndorsementError(
                f"a file is neither certificate nor revocation list: {error}", "give them in PEM or DER"
            ) from None
    return Issuers(certificates=tuple(certificates), crls=tuple(crls))


def _is_certificate(der: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(der)
    except UNREADABLE:
        x509.load_der_x509_crl(der)
        return False
    return True
