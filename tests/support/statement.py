"""A client that asks for the statement of a service, and checks it step by step. As a program, it fetches."""

import base64
import hashlib
import json
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from securetf.appraisal import ear
from securetf.attester.insecure_simulation import load_anchor
from securetf.cas_client import CasTrust
from securetf.claims import Evidence, Platform
from securetf.endorsements import Endorsements
from securetf.evidence import binding
from securetf.verifier import verify
from securetf.verifier.insecure_simulation import verifier
from securetf.wire import decode
from securetf.wire.statement import ALPN, Binding, Statement, check_token_key, read_binding

NONCE = bytes(range(32))


def fetch(host: str, port: int) -> tuple[bytes, bytes]:
    """Return the statement's JSON and the certificate of the connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([ALPN])
    with socket.create_connection((host, port), 30) as plain, context.wrap_socket(plain) as stream:
        assert stream.selected_alpn_protocol() == ALPN
        stream.sendall(NONCE)
        raw = b""
        while part := stream.recv(65536):
            raw += part
        assert int.from_bytes(raw[:4], "big") == len(raw) - 4
        return raw[4:], stream.getpeercert(binary_form=True)


@dataclass
class Proved:
    """What the steps showed."""

    statement: Statement
    claims: ear.EarClaims
    binding: Binding
    key: EllipticCurvePublicKey


def ask(before: list[str], host: str, port: int) -> tuple[Statement, bytes]:
    """Fetch from another network namespace. before: the command that enters it."""
    done = subprocess.run(
        [*before, sys.executable, __file__, host, str(port)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    return decode(base64.b64decode(found["statement"]), Statement), base64.b64decode(found["leaf"])


def check(statement: Statement, leaf: bytes, *, trust: CasTrust, platform: Path, session: str) -> Proved:
    """The six steps of docs/formats/service-statement-v1.md; the CAS is checked both ways."""
    now = datetime.now(UTC)
    cas = statement.cas.evidence
    assert hashlib.sha256(cas.tls_spki).hexdigest() == trust.spki_sha256
    assert cas.audit_public_key.hex() == trust.audit_public_key
    verify(
        Evidence(Platform(cas.platform), cas.evidence),
        verifiers={
            Platform.INSECURE_SIMULATION: verifier(
                load_anchor(platform), Endorsements.from_json(cas.endorsements)
            )
        },
        expected_report_data=binding.report_data(
            role=binding.Role.CAS,
            nonce=statement.cas.nonce,
            tls_spki=cas.tls_spki,
            hpke_public_key=cas.hpke_public_key + cas.audit_public_key,
            cas_spki=cas.tls_spki,
            exporter=None,
            manifest_hash=None,
        ),
        now=now,
    )
    key = check_token_key(
        statement.cas.token_key, cas=trust.spki_sha256, audit_public_key=cas.audit_public_key
    )
    claims = ear.check_insecure_simulation(
        statement.ear,
        keys={ear.key_id(key): key},
        issuer=f"securetf-cas:{trust.spki_sha256}",
        audience=f"securetf-session:{session}",
        nonce=None,
        now=now,
    )
    x, y = (
        int.from_bytes(base64.urlsafe_b64decode(claims.confirmation_jwk[one] + "="), "big") for one in "xy"
    )
    attested = EllipticCurvePublicNumbers(x, y, SECP256R1()).public_key()
    found = read_binding(statement.binding, attested)
    assert found.nonce == NONCE
    assert claims.subject.endswith(f"/{found.session}/{found.workload}/{found.instance}")
    assert statement.certificate[0] == leaf
    certificate = x509.load_der_x509_certificate(leaf)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(statement.trust_root))
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(spki).hexdigest() == found.network_spki_sha256
    return Proved(statement, claims, found, attested)


if __name__ == "__main__":
    document, shown = fetch(sys.argv[1], int(sys.argv[2]))
    print(
        json.dumps(
            {"statement": base64.b64encode(document).decode(), "leaf": base64.b64encode(shown).decode()}
        )
    )
