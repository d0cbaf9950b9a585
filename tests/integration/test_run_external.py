"""A destination outside of the session: named in the Manifest, TLS only, found by the machine's resolver."""

import contextlib
import datetime
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.cloud import Cloud
from support.pair import Pair

NAME = socket.gethostname().lower()
try:
    ADDRESS = socket.gethostbyname(NAME)
except OSError:
    ADDRESS = ""
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces"),
    pytest.mark.skipif(not ADDRESS, reason="this machine's own name does not resolve"),
]
PROGRAM = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
name, port = sys.argv[1], int(sys.argv[3])
with context.wrap_socket(socket.create_connection((name, port), timeout=20), server_hostname=name) as stream:
    print("outside says", stream.recv(100).decode())
plain = socket.create_connection((name, port), timeout=20)
plain.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
try:
    print("plain", plain.recv(100))
except ConnectionResetError:
    print("plain was reset")
"""


def certificate(directory: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for this machine's name; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "outside.pem", directory / "outside.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return paths


@contextlib.contextmanager
def outside(pem: Path, key: Path) -> Iterator[int]:
    """Serve TLS on this machine's own address; yield the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem, key)
    listener = socket.create_server((ADDRESS, 0))

    def serve() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), context.wrap_socket(stream, server_side=True) as wrapped:
                wrapped.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.mark.parametrize("interceptor", ["namespace", "seccomp"])
def test_program_when_an_outside_name_is_in_the_manifest_reaches_it_by_tls_alone(
    cloud: Cloud, tmp_path: Path, interceptor: str
) -> None:
    pair = Pair(cloud, None, tmp_path)
    pem, key = certificate(tmp_path)
    try:
        with outside(pem, key) as port:
            command = [sys.executable, "-c", PROGRAM, NAME, str(pem), str(port)]
            pair.create(pair.text(command, extra=f'external = {{ "{NAME}:{port}" = "tls passthrough" }}'))
            client = pair.run("client", "--interceptor", interceptor)
            assert client.wait() == 0, client.said
    finally:
        pair.close()
    assert "outside says hello" in client.said
    assert "plain was reset" in client.said
    assert f"refused outbound {NAME}:{port}" in client.said
