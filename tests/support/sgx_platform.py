"""A synthetic SGX machine: the development PKI of the simulated TDX platform, and quotes v3 under it."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf.attester import development_pki as pki
from securetf.attester.simulated_enclave import (
    CPU_SVN,
    QE_ATTRIBUTES,
    QE_ISV_SVN,
    QE_MR_SIGNER,
    QE_PROD_ID,
    sign,
)
from securetf.claims import VerifiedClaims
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.trust import spki_digest
from securetf.evidence import sgx
from securetf.verifier.sgx import authenticate

NOW = datetime(2026, 11, 22, 20, 0, tzinfo=UTC)
REPORT_DATA = bytes(range(64))
FLAGS = 0x5  # INIT and MODE64BIT


def attributes(flags: int) -> bytes:
    """Return ATTRIBUTES with these flags and a usual XFRM."""
    return flags.to_bytes(8, "little") + bytes.fromhex("e700000000000000")


def body(**changes: Any) -> sgx.SgxReport:
    """Return the report of an enclave."""
    report = sgx.SgxReport(
        cpu_svn=CPU_SVN,
        misc_select=bytes(4),
        isv_ext_prod_id=bytes(16),
        attributes=attributes(FLAGS),
        mr_enclave=b"\1" * 32,
        mr_signer=b"\2" * 32,
        config_id=bytes(64),
        isv_prod_id=3,
        isv_svn=4,
        config_svn=0,
        isv_family_id=bytes(16),
        report_data=REPORT_DATA,
    )
    return replace(report, **changes)


@dataclass(frozen=True)
class SgxPlatform:
    """Keys, collateral and a quoting enclave."""

    keys: pki.DevelopmentPki
    key: ec.EllipticCurvePrivateKey

    @staticmethod
    def make() -> "SgxPlatform":
        """Return a new machine under a new root."""
        return SgxPlatform(
            pki.create(NOW, platform_id=bytes(range(16))), ec.generate_private_key(ec.SECP256R1())
        )

    @property
    def anchors(self) -> TrustAnchors:
        """The pin of this root."""
        return TrustAnchors(
            spki_sha256=frozenset({spki_digest(self.keys.root.certificate)}), development=True
        )

    def endorse(
        self, *, tcb: dict[str, Any] | None = None, qe: dict[str, Any] | None = None, **revoked: Any
    ) -> Endorsements:
        """Return collateral with some members of TCB info and QE identity changed, and signed."""
        tcb_info = {**pki.tcb_info(NOW), "id": "SGX", **(tcb or {})}
        tcb_info.pop("tdxModule", None)
        for level in tcb_info["tcbLevels"]:
            level["tcb"].pop("tdxtcbcomponents", None)
        return pki.endorse(
            self.keys, NOW, tcb=tcb_info, qe={**pki.qe_identity(NOW), "id": "QE", **(qe or {})}, **revoked
        )

    def qe_report(self, **changes: Any) -> bytes:
        """Return the report of the quoting enclave, which binds the attestation key."""
        auth = bytes(range(32))
        values = {
            "cpu_svn": CPU_SVN,
            "attributes": QE_ATTRIBUTES,
            "mr_enclave": hashlib.sha256(b"INSECURE SIMULATION quoting enclave").digest(),
            "mr_signer": QE_MR_SIGNER,
            "isv_prod_id": QE_PROD_ID,
            "isv_svn": QE_ISV_SVN,
            "report_data": hashlib.sha256(self.public + auth).digest() + bytes(32),
        }
        report = body(**values | changes)
        empty = sgx.SgxQuote(
            qe_svn=0, pce_svn=0, user_data=bytes(20), body=report, **dict.fromkeys(FIELDS, b"")
        )
        return sgx.signed_bytes(empty)[48:]

    @property
    def public(self) -> bytes:
        """The attestation key, x then y."""
        return self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    def quote(
        self, *, qe: dict[str, Any] | None = None, keys: pki.DevelopmentPki | None = None, **changes: Any
    ) -> bytes:
        """Return a signed quote; qe: changes of the quoting enclave's report; changes: of the enclave's."""
        keys = keys or self.keys
        qe_report = self.qe_report(**(qe or {}))
        unsigned = sgx.SgxQuote(
            qe_svn=9,
            pce_svn=13,
            user_data=bytes(20),
            body=body(**changes),
            signature=bytes(64),
            attestation_key=self.public,
            qe_report=qe_report,
            qe_report_signature=sign(keys.pck.key, qe_report),
            qe_auth_data=bytes(range(32)),
            pck_chain=pki.pem_chain(keys.pck, keys.pck_ca, keys.root).encode(),
        )
        return sgx.encode(replace(unsigned, signature=sign(self.key, sgx.signed_bytes(unsigned))))

    def verify(self, raw: bytes | None = None, **changes: Any) -> VerifiedClaims:
        """Run the production steps under the development root."""
        endorsements = changes.pop("endorsements", None) or self.endorse()
        arguments: dict[str, Any] = {
            "anchors": self.anchors,
            "endorsements_for": lambda _: endorsements,
            "expected_report_data": REPORT_DATA,
            "minimum_tcb_evaluation": 0,
            "now": NOW,
        }
        return authenticate(self.quote() if raw is None else raw, **arguments | changes)


FIELDS = ("signature", "attestation_key", "qe_report", "qe_report_signature", "qe_auth_data", "pck_chain")
