"""A TPM in software of the tests: signs whatever it is asked to, to be changed in one place."""

import hashlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA384, SHA512

from securetf.claims import VerifiedClaims
from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import KnownAk
from securetf.evidence import tcg_event_log, tpm2, tpm2_public, tpm2_quote
from securetf.evidence.tcg_event_log import Event, EventLog
from securetf.evidence.tpm2_public import Public
from securetf.evidence.tpm2_quote import Quote, Signature
from securetf.verifier.tpm2 import Tpm2Verifier
from securetf.verifier.tpm2_origin import KeyOrigins
from support.authority import NOW, Authority, issue

REPORT_DATA = bytes(range(64))
HASHES: dict[int, Any] = {0x04: SHA1, 0x0B: SHA256, 0x0C: SHA384, 0x0D: SHA512}
AK_ATTRIBUTES = 0x50072
SELECTION = tuple(range(24))
TPM_KEY = (x509.ExtendedKeyUsage([x509.ObjectIdentifier("2.23.133.8.3")]), False)


def public_of(key: Any, **changes: Any) -> Public:
    """Return the public area of an AK."""
    numbers = key.public_key().public_numbers()
    values: dict[str, Any] = {
        "name_hash": tpm2_quote.SHA256,
        "attributes": AK_ATTRIBUTES,
        "auth_policy": b"",
        "aes_bits": 0,
        "scheme_hash": tpm2_quote.SHA256,
    }
    if isinstance(key, rsa.RSAPrivateKey):
        size = key.key_size // 8
        values |= {"kind": tpm2_public.RSA, "scheme": tpm2_quote.RSASSA, "bits": key.key_size}
        values["unique"] = (numbers.n.to_bytes(size, "big"),)
    else:
        values |= {"kind": tpm2_public.ECC, "scheme": tpm2_quote.ECDSA, "curve": tpm2_public.P256}
        values["unique"] = (numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big"))
    return Public(**values | changes)


def sign(key: Any, quote: Quote, *, scheme: int = 0, digest: int = tpm2_quote.SHA256) -> Signature:
    """Return the signature over a quote."""
    algorithm, data = HASHES[digest](), tpm2_quote.encode_quote(quote)
    if isinstance(key, rsa.RSAPrivateKey):
        scheme = scheme or tpm2_quote.RSASSA
        pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
        mode = padding.PKCS1v15() if scheme == tpm2_quote.RSASSA else pss
        return Signature(scheme=scheme, hash=digest, parts=(key.sign(data, mode, algorithm),))
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(algorithm)))
    parts = (r.to_bytes(32, "big"), s.to_bytes(32, "big"))
    return Signature(scheme=tpm2_quote.ECDSA, hash=digest, parts=parts)


def make_log(*banks: int, count: int = 12) -> EventLog:
    """Return a log with events of PCRs 0 to 9."""
    events = tuple(
        Event(
            pcr=index % 10,
            kind=8,
            digests=tuple((bank, bytes([index % 256]) * tpm2_quote.DIGEST_SIZES[bank]) for bank in banks),
            data=f"event {index}".encode(),
        )
        for index in range(count)
    )
    sizes = b"".join(
        bank.to_bytes(2, "little") + tpm2_quote.DIGEST_SIZES[bank].to_bytes(2, "little") for bank in banks
    )
    header = b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\2" + len(banks).to_bytes(4, "little") + sizes + b"\0"
    return EventLog(header=header, algorithms=banks, events=events)


LOG = make_log(tpm2_quote.SHA256)


@dataclass(frozen=True)
class Tpm:
    """An attestation key with a certificate chain, and PCRs as the log leaves them."""

    key: Any
    root: Authority
    certificate: Authority
    pcrs: dict[int, bytes] = field(default_factory=lambda: tcg_event_log.replay(LOG, tpm2_quote.SHA256))

    @property
    def public(self) -> Public:
        return public_of(self.key)

    @property
    def known(self) -> KnownAk:
        name = tpm2_public.name(self.public)
        return KnownAk(name=name, ek_sha256=bytes(32), valid_until=NOW + timedelta(days=1))

    def quote(self, **changes: Any) -> Quote:
        whole = b"".join(self.pcrs[index] for index in SELECTION)
        quote = Quote(
            qualified_signer=b"\0\x0b" + bytes(32),
            extra_data=tpm2.qualifying_data(REPORT_DATA),
            clock=1,
            reset_count=2,
            restart_count=3,
            safe=True,
            firmware=4,
            bank=tpm2_quote.SHA256,
            selection=SELECTION,
            pcr_digest=hashlib.sha256(whole).digest(),
        )
        return replace(quote, **changes)

    def evidence(self, quote: Quote | None = None, **changes: Any) -> bytes:
        quote = quote or self.quote()
        evidence = tpm2.Tpm2Evidence(
            ak=self.public,
            quote=quote,
            signature=sign(self.key, quote),
            pcrs=self.pcrs,
            certificates=(self.certificate.der, self.root.der),
            event_log=tcg_event_log.encode(LOG),
        )
        return tpm2.encode(replace(evidence, **changes))

    def verify(self, raw: bytes | None = None, **changes: Any) -> VerifiedClaims:
        origins: dict[str, Any] = {"anchors": self.root.anchors, "enrolment_of": lambda _: None}
        origins |= {
            name: changes.pop(name)
            for name in (*origins, "revoked", "authorities", "issuers_for")
            if name in changes
        }
        verifier = Tpm2Verifier(
            KeyOrigins(**origins), event_log_required=bool(changes.pop("event_log_required", False))
        )
        report_data = changes.pop("report_data", REPORT_DATA)
        arguments: dict[str, Any] = {
            "expected_extra_data": tpm2.qualifying_data(report_data),
            "report_data": report_data,
            "now": NOW,
        }
        return verifier.authenticate(self.evidence() if raw is None else raw, **arguments | changes)


NOBODY = TrustAnchors(spki_sha256=frozenset(), development=False)


def make_tpm(key: Any = None, **changes: Any) -> Tpm:
    """Return a TPM whose AK is certified by a root of its own. changes: to the AK's certificate."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    root = issue("TPM root")
    values: dict[str, Any] = {"ca": False, "usage": ("digital_signature",), "extensions": (TPM_KEY,)}
    return Tpm(key, root, root.issue("AK", key=key, **values | changes))
