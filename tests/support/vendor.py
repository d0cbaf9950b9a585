"""A local HTTPS server that stands for the vendors' services: Intel PCS, AMD KDS, a TPM manufacturer."""

import ipaddress
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from securetf.endorsements import Endorsements
from securetf.endorsements.sources import Sources


@dataclass
class Reply:
    """One answer. trickle_s: pause after each byte of the body. wait: answer only once it is set."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    trickle_s: float = 0.0
    wait: threading.Event | None = None
    length: int | None = None


@dataclass
class Vendor:
    """The server. routes: target to its answer, or to the answers of consecutive requests."""

    url: str
    ca_file: Path
    routes: dict[str, Reply | list[Reply]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def sources(self, **changes: Any) -> Sources:
        """Return addresses that all lead here."""
        values: dict[str, Any] = {
            "intel": self.url,
            "intel_root_crl": f"{self.url}/root.der",
            "amd": self.url,
            "tpm_hosts": ("127.0.0.1",),
            "deadline_s": 20.0,
            "ca_file": str(self.ca_file),
        }
        return Sources(**values | changes)

    def serve_dcap(self, collateral: Endorsements, *, tee: str, fmspc: str, ca: str = "platform") -> None:
        """Answer as Intel's PCS does, with this collateral."""
        for update in ("standard", "early"):
            self.routes[f"/{tee}/certification/v4/tcb?fmspc={fmspc}&update={update}"] = Reply(
                signed("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
                headers={"TCB-Info-Issuer-Chain": quote(collateral.tcb_info_issuer_chain)},
            )
            self.routes[f"/{tee}/certification/v4/qe/identity?update={update}"] = Reply(
                signed("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
                headers={"SGX-Enclave-Identity-Issuer-Chain": quote(collateral.qe_identity_issuer_chain)},
            )
        self.routes[f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"] = Reply(
            collateral.pck_crl,
            headers={"SGX-PCK-CRL-Issuer-Chain": quote(collateral.pck_crl_issuer_chain)},
        )
        self.routes["/root.der"] = Reply(collateral.root_ca_crl)
        self.routes["/sgx/certification/v4/rootcacrl"] = Reply(collateral.root_ca_crl.hex().encode())

    def reply(self, target: str) -> Reply:
        """Return the next answer for a target."""
        self.asked.append(target)
        found = self.routes.get(target, Reply(b"no such thing", status=404))
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found


def signed(name: str, text: str, signature: bytes) -> bytes:
    """Return a document of PCS API v4."""
    return f'{{"{name}":{text},"signature":"{signature.hex()}"}}'.encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    vendor: Vendor

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that went away."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        vendor = self.server.vendor
        reply = vendor.reply(self.path)
        if reply.wait is not None:
            reply.wait.wait(60)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
        self.end_headers()
        if not reply.trickle_s:
            self.wfile.write(reply.body)
            return
        for byte in reply.body:
            self.wfile.write(bytes([byte]))
            if vendor.released.wait(reply.trickle_s):
                return

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def running(directory: Path) -> Iterator[Vendor]:
    """Run a server on a free port of this machine."""
    server = _Server(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_certificate(directory))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    vendor = server.vendor = Vendor(
        f"https://127.0.0.1:{server.server_address[1]}", directory / "vendor-tls.pem"
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        vendor.released.set()
        server.shutdown()
        server.server_close()
        thread.join(10)


def _certificate(directory: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vendor of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    public = certificate.public_bytes(Encoding.PEM)
    (directory / "vendor-tls.pem").write_bytes(public)
    both = directory / "vendor-tls-key.pem"
    both.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + public)
    return both
