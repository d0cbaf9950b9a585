"""A connection that is cut within an answer is a CAS that is not reached, never one that answers wrongly."""

import datetime
import hashlib
import re
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


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n", "its first line is not HTTP/1.1's"),
        (ANSWER.replace(b"200", b"2000"), "its first line is not HTTP/1.1's"),
        (ANSWER.replace(b"content-length: 10", b"x: y"), "it does not say how long it is"),
        (ANSWER.replace(b"length: 10", b"length: -1"), "it does not say how long it is"),
        (ANSWER.replace(b"10\r\n", b"10\r\nContent-Length: 9\r\n"), "it does not say how long it is"),
        (
            ANSWER.replace(b"10\r\n", b"10\r\nTransfer-Encoding: chunked\r\n"),
            "a header that a CAS does not send",
        ),
        (ANSWER.replace(b"10\r\n", b"10\r\nno colon\r\n"), "a header that a CAS does not send"),
        (ANSWER.replace(b"10", b"4194305"), "it announced 4194305 bytes"),
        (ANSWER + b"x", "more than was announced"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"x" * (70 << 10), "a head without an end"),
    ],
)
def test_send_when_the_answer_is_not_what_a_cas_sends_says_why(serve: Serve, answer: bytes, why: str) -> None:
    with pytest.raises(CasProtocolError, match=re.escape(why)):
        serve(answer).send("POST", "/", b"x", {}, repeatable=True)


def test_send_when_the_cas_takes_no_further_request_goes_on_over_a_new_connection(serve: Serve) -> None:
    transport = serve(ANSWER.replace(b"10\r\n", b"10\r\nConnection: close\r\n"), ANSWER)
    for _ in range(2):
        assert transport.send("POST", "/", b"x", {}, repeatable=False) == (200, b"0123456789")
    transport.close()


def test_line_when_the_cas_takes_no_further_request_has_no_exporter_and_takes_none(serve: Serve) -> None:
    transport = serve(ANSWER.replace(b"10\r\n", b"10\r\nConnection: close\r\n"))
    with transport.line() as line:
        assert transport.send("POST", "/", b"x", {}, repeatable=False, over=line)[0] == 200
        with pytest.raises(CasUnreachableError, match="closed the connection"):
            line.exporter("EXPORTER-test")
        with pytest.raises(CasUnreachableError, match="the connection was lost"):
            transport.send("POST", "/", b"x", {}, repeatable=True, over=line)


@pytest.mark.parametrize(("target", "headers"), [("/a b", {}), ("/a\r\nx: y", {}), ("/", {"a": "b\r\nc: d"})])
def test_send_when_a_line_end_or_a_space_would_go_into_the_head_sends_nothing(
    serve: Serve, target: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match="a line end in a header, or a space in a target"):
        serve(ANSWER).send("POST", target, b"x", headers, repeatable=False)
