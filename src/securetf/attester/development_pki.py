"""INSECURE SIMULATION: a development PKI in the shape of Intel's DCAP (PCK certificate and CRL profile 1.5).

Root; PCK CA and TCB signer under it; one PCK leaf; CRLs, TCB info and QE identity. Everything names
itself a simulation. Keys come from the operating system; times are arguments. Nothing here touches a file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from securetf.attester.simulated_enclave import (
    CPU_SVN,
    QE_ISV_SVN,
    QE_MR_SIGNER,
    QE_PROD_ID,
    TEE_TCB_SVN,
    QuotingEnclave,
    sign,
)
from securetf.endorsements import Endorsements
from securetf.endorsements.trust import SIMULATION_MARK

CERTIFICATE_LIFETIME = timedelta(days=3650)
COLLATERAL_LIFETIME = timedelta(days=30)  # Intel's own
CLOCK_SLACK = timedelta(hours=1)  # issued in the past, so that another machine's clock may be behind

FMSPC = "00000053494D"
PCE_ID = "0000"
PCE_SVN = 13
TCB_EVALUATION = 18

_SGX_EXTENSION = "1.2.840.113741.1.13.1"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class DevelopmentPki:
    """Everything that Intel and one machine have in reality."""

    root: Identity
    pck_ca: Identity
    tcb_signer: Identity
    pck: Identity

    def quoting_enclave(
        self, *, mr_signer: bytes = QE_MR_SIGNER, isv_svn: int = QE_ISV_SVN
    ) -> QuotingEnclave:
        """Return a quoting enclave with a fresh attestation key on this platform."""
        chain = pem_chain(self.pck, self.pck_ca, self.root).encode()
        return QuotingEnclave(self.pck.key, chain, mr_signer=mr_signer, isv_svn=isv_svn)


def create(now: datetime, *, platform_id: bytes, fmspc: str = FMSPC) -> DevelopmentPki:
    """Return a fresh PKI for one platform. platform_id: 16 bytes, the PPID in its PCK certificate."""
    root = _issue("Root CA", None, now, ca=1)
    pck_ca = _issue("PCK Platform CA", root, now, ca=0)
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(_SGX_EXTENSION), _pck_extension(platform_id, bytes.fromhex(fmspc))
    )
    return DevelopmentPki(
        root=root,
        pck_ca=pck_ca,
        tcb_signer=_issue("TCB Signing", root, now),
        pck=_issue("PCK Certificate", pck_ca, now, extension=extension),
    )


def tcb_info(now: datetime) -> dict[str, Any]:
    """Return the TCB info (PCS API v4, version 3) under which this platform is UpToDate."""
    components = [{"svn": svn} for svn in CPU_SVN]
    tdx_components = [{"svn": svn} for svn in TEE_TCB_SVN]
    zero_signer = "00" * 48
    module = {"mrsigner": zero_signer, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    return {
        "id": "TDX",
        "version": 3,
        **_window(now),
        "fmspc": FMSPC,
        "pceId": PCE_ID,
        "tcbType": 0,
        "tcbEvaluationDataNumber": TCB_EVALUATION,
        "tdxModule": module,
        "tcbLevels": [
            {
                "tcb": {
                    "sgxtcbcomponents": components,
                    "pcesvn": PCE_SVN,
                    "tdxtcbcomponents": tdx_components,
                },
                "tcbDate": _rfc3339(now),
                "tcbStatus": "UpToDate",
            }
        ],
    }


def qe_identity(now: datetime) -> dict[str, Any]:
    """Return the identity (PCS API v4, version 2) of the simulated quoting enclave."""
    return {
        "id": "TD_QE",
        "version": 2,
        **_window(now),
        "tcbEvaluationDataNumber": TCB_EVALUATION,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MR_SIGNER.hex().upper(),
        "isvprodid": QE_PROD_ID,
        "tcbLevels": [{"tcb": {"isvsvn": QE_ISV_SVN}, "tcbDate": _rfc3339(now), "tcbStatus": "UpToDate"}],
    }


def endorse(
    pki: DevelopmentPki,
    now: datetime,
    *,
    tcb: Mapping[str, Any] | None = None,
    qe: Mapping[str, Any] | None = None,
    revoked_by_root: Sequence[x509.Certificate] = (),
    revoked_by_ca: Sequence[x509.Certificate] = (),
) -> Endorsements:
    """Return signed collateral: `tcb_info(now)` and `qe_identity(now)` unless others are given."""
    tcb_text = json.dumps(tcb_info(now) if tcb is None else dict(tcb), separators=(",", ":"))
    qe_text = json.dumps(qe_identity(now) if qe is None else dict(qe), separators=(",", ":"))
    signer_chain = pem_chain(pki.tcb_signer, pki.root)
    return Endorsements(
        pck_crl_issuer_chain=pem_chain(pki.pck_ca, pki.root),
        root_ca_crl=crl(pki.root, revoked_by_root, now),
        pck_crl=crl(pki.pck_ca, revoked_by_ca, now),
        tcb_info_issuer_chain=signer_chain,
        tcb_info=tcb_text,
        tcb_info_signature=sign(pki.tcb_signer.key, tcb_text.encode()),
        qe_identity_issuer_chain=signer_chain,
        qe_identity=qe_text,
        qe_identity_signature=sign(pki.tcb_signer.key, qe_text.encode()),
    )


def crl(issuer: Identity, revoked: Sequence[x509.Certificate], now: datetime) -> bytes:
    """Return a DER revocation list of `issuer`, good for `COLLATERAL_LIFETIME`."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - CLOCK_SLACK)
        .next_update(now + COLLATERAL_LIFETIME)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(_authority_key_id(issuer), critical=False)
    )
    for certificate in revoked:
        entry = x509.RevokedCertificateBuilder(certificate.serial_number, now - CLOCK_SLACK)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, SHA256()).public_bytes(Encoding.DER)


def pem_chain(*identities: Identity) -> str:
    """Return the certificates in PEM, one after the other."""
    return "".join(identity.certificate.public_bytes(Encoding.PEM).decode() for identity in identities)


def _issue(
    name: str,
    issuer: Identity | None,
    now: datetime,
    *,
    ca: int | None = None,
    extension: x509.UnrecognizedExtension | None = None,
) -> Identity:
    """Issue one certificate; without `issuer` self-signed. ca: path length of a CA, None for a leaf."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"{SIMULATION_MARK} {name}"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "securetf development keys"),
        ]
    )
    authority = Identity(_placeholder(subject, key, now), key) if issuer is None else issuer
    builder = (
        _builder(subject, key, now)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .add_extension(_authority_key_id(authority), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(is_ca=ca is not None), critical=True)
        .add_extension(x509.BasicConstraints(ca=ca is not None, path_length=ca), critical=True)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=False)
    return Identity(builder.sign(authority.key, SHA256()), key)


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + CERTIFICATE_LIFETIME)
    )


def _placeholder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    return _builder(subject, key, now).issuer_name(subject).sign(key, SHA256())


def _authority_key_id(issuer: Identity) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())


def _key_usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=not is_ca,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def _window(now: datetime) -> dict[str, str]:
    return {
        "issueDate": _rfc3339(now - CLOCK_SLACK),
        "nextUpdate": _rfc3339(now + COLLATERAL_LIFETIME),
    }


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pck_extension(platform_id: bytes, fmspc: bytes) -> bytes:
    """Return the DER of the SGX extension of a PCK certificate (profile 1.5, section 1.3.5)."""
    base = _SGX_EXTENSION
    svns = [_pair(f"{base}.2.{index}", _integer(svn)) for index, svn in enumerate(CPU_SVN, start=1)]
    tcb = _sequence(
        *svns, _pair(f"{base}.2.17", _integer(PCE_SVN)), _pair(f"{base}.2.18", _tlv(0x04, CPU_SVN))
    )
    false = _tlv(0x01, b"\x00")
    configuration = _sequence(*(_pair(f"{base}.7.{index}", false) for index in (1, 2, 3)))
    return _sequence(
        _pair(f"{base}.1", _tlv(0x04, platform_id)),
        _pair(f"{base}.2", tcb),
        _pair(f"{base}.3", _tlv(0x04, bytes.fromhex(PCE_ID))),
        _pair(f"{base}.4", _tlv(0x04, fmspc)),
        _pair(f"{base}.5", _tlv(0x0A, b"\x01")),
        _pair(f"{base}.6", _tlv(0x04, hashlib.sha256(platform_id).digest()[:16])),
        _pair(f"{base}.7", configuration),
    )


def _pair(oid: str, value: bytes) -> bytes:
    return _sequence(_oid(oid), value)


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, b"".join(parts))


def _integer(value: int) -> bytes:
    return _tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _oid(dotted: str) -> bytes:
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    encoded = bytearray()
    for arc in (first * 40 + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        encoded += bytes(reversed(groups))
    return _tlv(0x06, bytes(encoded))


def _tlv(tag: int, value: bytes) -> bytes:
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + value
