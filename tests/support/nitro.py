"""Nitro attestation documents under a root of our own, to be changed in one place."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from securetf.claims import VerifiedClaims
from securetf.evidence import cbor, nitro
from securetf.verifier.nitro import authenticate
from support.authority import NOW, Authority, issue

REPORT_DATA = bytes(range(64))
MODULE = "i-0123456789abcdef0-enc0123456789abcdef"
LEAF: dict[str, Any] = {"ca": False, "usage": ("digital_signature",), "end": NOW + timedelta(hours=3)}


@dataclass(frozen=True)
class Module:
    """A Nitro Security Module: root, two intermediates and the leaf that signs."""

    root: Authority
    zone: Authority
    instance: Authority
    leaf: Authority

    def payload(self, **changes: Any) -> dict[Any, Any]:
        fields: dict[Any, Any] = {
            "module_id": MODULE,
            "digest": "SHA384",
            "timestamp": int(NOW.timestamp() * 1000),
            "pcrs": {index: bytes([index + 1]) * 48 for index in range(16)},
            "certificate": self.leaf.der,
            "cabundle": (self.root.der, self.zone.der, self.instance.der),
            "public_key": None,
            "user_data": REPORT_DATA,
            "nonce": None,
        }
        fields |= changes
        return {name: value for name, value in fields.items() if value is not ...}

    def sign(self, payload: bytes) -> bytes:
        r, s = decode_dss_signature(self.leaf.key.sign(nitro.signed_bytes(payload), ec.ECDSA(SHA384())))
        return r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def document(self, **changes: Any) -> bytes:
        return self.wrap(cbor.encode(self.payload(**changes)))

    def wrap(self, payload: bytes) -> bytes:
        return cbor.encode((nitro.PROTECTED, {}, payload, self.sign(payload)))

    def verify(self, raw: bytes | None = None, **changes: Any) -> VerifiedClaims:
        arguments: dict[str, Any] = {
            "anchors": self.root.anchors,
            "expected": {"user_data": REPORT_DATA},
            "now": NOW,
        }
        return authenticate(self.document() if raw is None else raw, **arguments | changes)

    def with_leaf(self, **changes: Any) -> "Module":
        return replace(self, leaf=self.instance.issue("leaf", **LEAF | changes))


def make_module() -> Module:
    """Return a new module with a PKI of its own."""
    root = issue("root")
    zone = root.issue("zone", path_length=1)
    instance = zone.issue("instance", path_length=0)
    return Module(root, zone, instance, instance.issue("leaf", **LEAF))


def later(**parts: int) -> datetime:
    """Return a time after NOW."""
    return NOW + timedelta(**parts)
