"""A connection that is cut within an answer is a CAS that is not reached, never one that answers wrongly."""

import datetime
import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from securetf.cas_client.transport import Transport
from securetf.errors import CasIdentityError, CasProtocolError, CasUnreachableError

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n0123456789"
Serve = Callable[..., Transport]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server that gives each connection, in turn, the next of some answers, and then cuts it off."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    certificate = builder.sign(key, hashes.SHA256())
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        certificate.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    listening = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def answer(answers: tuple[bytes, ...]) -> None:
        for one in answers:
            plain, _ = listening.accept()
            with context.wrap_socket(plain, server_side=True) as secured:
                request = b""
                while not request.endswith(b"\r\n\r\nx") and (part := secured.recv(65536)):
                    request += part
                if one and request:
                    secured.sendall(one)
                # Closed without a close_notify, as by a kill.

    def start(*answers: bytes, pin: str | None = None) -> Transport:
        threads.append(threading.Thread(target=answer, args=(answers,), daemon=True))
        threads[-1].start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        return Transport(url, pin or hashlib.sha256(spki).hexdigest(), deadline_s=5)

    yield start
    listening.close()


@pytest.mark.parametrize("length", [0, 17, 60, len(ANSWER) - 10, len(ANSWER) - 1])
def test_send_when_the_answer_is_cut_says_that_the_cas_is_not_reached(serve: Serve, length: int) -> None:
    transport = serve(ANSWER[:length])
    with pytest.raises(CasUnreachableError, match="the connection was lost"):
        transport.send("POST", "/", b"x", {}, repeatable=False)


@pytest.mark.parametrize("length", [0, 17, len(ANSWER) - 1])
def test_send_when_the_answer_is_cut_and_may_be_repeated_asks_once_more(serve: Serve, length: int) -> None:
    transport = serve(ANSWER[:length], ANSWER)
    assert transport.send("POST", "/", b"x", {}, repeatable=True) == (200, b"0123456789")
    transport.close()


def test_send_when_the_answer_is_not_http_says_that_it_is_no_proper_answer(serve: Serve) -> None:
    with pytest.raises(CasProtocolError, match="gave no proper answer"):
        serve(b"220 mail.example ESMTP\r\n").send("POST", "/", b"x", {}, repeatable=False)


def test_send_when_the_key_is_another_sends_nothing(serve: Serve) -> None:
    with pytest.raises(CasIdentityError, match="pinned is 0000"):
        serve(ANSWER, pin="00" * 32).send("POST", "/", b"x", {}, repeatable=True)


def test_send_when_the_cas_was_restarted_since_goes_on_over_a_new_connection(serve: Serve) -> None:
    transport = serve(ANSWER, ANSWER)
    for _ in range(2):
        assert transport.send("POST", "/", b"x", {}, repeatable=False) == (200, b"0123456789")
        time.sleep(0.05)  # the server has closed its end now
    transport.close()
