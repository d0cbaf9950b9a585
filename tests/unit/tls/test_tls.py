"""TLS between a CAS and its clients: each side against the other, and against Python's `ssl`."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securetf._core import TlsSession
from securetf.tls.client import ClientSocket
from securetf.tls.server import TlsServer, secured

LABEL = "EXPORTER-test"
HANDSHAKE_S = 60.0  # never, for who means it
LARGE = 3_000_000  # bytes; more than a session takes at once


def identity() -> tuple[bytes, bytes]:
    """Return a certificate, DER, and its key, PKCS #8."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return certificate, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


CERTIFICATE, KEY = identity()


class Echo(asyncio.Protocol):
    """Gives back what comes, and keeps the exporters of its connections."""

    exporters: list[bytes]

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.exporters.append(transport.get_extra_info("exporter")(LABEL))

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.contextmanager
def echoing(handshake_s: float) -> Iterator[tuple[int, list[bytes]]]:
    """Port and exporters of an asyncio server with our layer."""
    Echo.exporters = []
    loop = asyncio.new_event_loop()
    layered = secured(TlsServer(CERTIFICATE, KEY, b"http/1.1"), Echo, handshake_s)
    server = loop.run_until_complete(loop.create_server(layered, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], Echo.exporters
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


@pytest.fixture
def echo() -> Iterator[tuple[int, list[bytes]]]:
    with echoing(HANDSHAKE_S) as made:
        yield made


def plain(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def stdlib(**options: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    return context


def test_exporter_when_asked_at_both_ends_then_the_same_and_another_for_each_connection_and_label(
    echo: tuple[int, list[bytes]],
) -> None:
    port, exporters = echo
    found = []
    for _ in range(2):
        connection = ClientSocket(plain(port))
        connection.sendall(b"x")
        assert connection.receive(9) == b"x"
        found.append(connection.exporter(LABEL))
        assert connection.certificate == CERTIFICATE
        assert connection.exporter("EXPORTER-other") != found[-1]
        connection.close()
    assert found == exporters
    assert len({*found}) == 2
    assert {len(one) for one in found} == {32}


def test_server_when_the_client_is_pythons_then_they_speak_and_nothing_is_resumed(
    echo: tuple[int, list[bytes]],
) -> None:
    with stdlib().wrap_socket(plain(echo[0])) as connection:
        assert connection.version() == "TLSv1.3"
        connection.sendall(b"x")
        assert connection.recv(9) == b"x"
        assert connection.session is None or not connection.session.has_ticket


def test_server_when_the_client_speaks_tls_12_at_most_then_refused(echo: tuple[int, list[bytes]]) -> None:
    old = stdlib(maximum_version=ssl.TLSVersion.TLSv1_2)
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        old.wrap_socket(plain(echo[0]))
    assert echo[1] == []


def test_much_when_sent_both_ways_at_once_then_comes_whole(echo: tuple[int, list[bytes]]) -> None:
    data = bytes(range(256)) * (LARGE // 256)

    # By one thread: two at once in one of OpenSSL's sessions are not safe in every Python.
    async def echoed() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", echo[0], ssl=stdlib())
        writer.write(data)
        back = await reader.readexactly(len(data))
        writer.close()
        return back

    assert asyncio.run(echoed()) == data


def serve_once(tmp_path: Path, answer: Any, **options: Any) -> int:
    """Have a server of Python's `ssl` take one connection; return its port."""
    pem = tmp_path / "server.pem"
    key = ssl.DER_cert_to_PEM_cert(KEY).replace("CERTIFICATE", "PRIVATE KEY")
    pem.write_text(ssl.DER_cert_to_PEM_cert(CERTIFICATE) + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    for name, value in options.items():
        setattr(context, name, value)
    listening = socket.create_server(("127.0.0.1", 0))

    def one() -> None:
        with listening, listening.accept()[0] as raw, contextlib.suppress(OSError):  # the client went
            answer(context, raw)

    threading.Thread(target=one, daemon=True).start()
    return int(listening.getsockname()[1])


def test_client_when_the_server_is_pythons_then_they_speak_and_see_the_end(tmp_path: Path) -> None:
    def answer(context: ssl.SSLContext, raw: socket.socket) -> None:
        with context.wrap_socket(raw, server_side=True) as secured:
            secured.sendall(secured.recv(9) * 100_000)
            secured.unwrap()

    connection = ClientSocket(plain(serve_once(tmp_path, answer)))
    connection.sendall(b"123456789")
    assert b"".join(iter(lambda: connection.receive(1 << 16), b"")) == b"123456789" * 100_000


def test_client_when_the_server_speaks_tls_12_at_most_then_refused(tmp_path: Path) -> None:
    port = serve_once(
        tmp_path,
        lambda context, raw: context.wrap_socket(raw, server_side=True),
        maximum_version=ssl.TLSVersion.TLSv1_2,
    )
    with pytest.raises(ssl.SSLError, match="ProtocolVersion"):
        ClientSocket(plain(port))


def test_client_when_the_other_side_speaks_no_tls_or_cuts_then_told_apart(tmp_path: Path) -> None:
    port = serve_once(tmp_path, lambda _, raw: raw.sendall(b"220 mail.example ESMTP\r\n"))
    with pytest.raises(ssl.SSLError, match="corrupt message"):
        ClientSocket(plain(port))
    port = serve_once(tmp_path, lambda _, raw: raw.recv(1))
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        ClientSocket(plain(port))


def test_server_when_its_key_is_not_that_of_its_certificate_then_refused() -> None:
    other, _ = identity()
    with pytest.raises(ValueError, match=r"(?i)key"):
        TlsServer(other, KEY, b"http/1.1")


def test_server_when_the_handshake_is_noise_then_the_connection_ends_and_others_go_on(
    echo: tuple[int, list[bytes]],
) -> None:
    with plain(echo[0]) as noise:
        noise.sendall(b"\x16\x03\x01\x00\x05noise" * 100)
        with contextlib.suppress(ConnectionResetError):
            assert noise.recv(100)[:1] in (b"", b"\x15")  # the end, or an alert
    connection = ClientSocket(plain(echo[0]))
    connection.sendall(b"x")
    assert connection.receive(1) == b"x"
    connection.close()


def test_server_when_a_handshake_does_not_end_then_cut_and_the_server_protocol_never_hears_of_it() -> None:
    with echoing(0.1) as (port, exporters), plain(port) as silent:
        silent.sendall(b"\x16\x03\x01")
        assert silent.recv(1) == b""
        assert exporters == []


def test_end_when_the_client_reads_nothing_of_what_is_left_then_cut_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("securetf.tls.server._CLOSING_S", 0.1)
    lost = threading.Event()

    class Much(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            transport.write(bytes(10 * LARGE))  # more than both sockets hold
            transport.close()

        def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
            lost.set()

    async def answered() -> bool:
        loop = asyncio.get_running_loop()
        layered = secured(TlsServer(CERTIFICATE, KEY, b"http/1.1"), Much, HANDSHAKE_S)
        server = await loop.create_server(layered, "127.0.0.1", 0)
        client = await loop.run_in_executor(None, connect, server.sockets[0].getsockname()[1])
        found = await loop.run_in_executor(None, lost.wait, 30)
        client.close()
        server.close()
        return found

    def connect(port: int) -> ClientSocket:
        return ClientSocket(plain(port))

    assert asyncio.run(answered())


def test_answer_when_written_in_pieces_within_one_turn_then_one_record() -> None:
    class Pieces(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, _: bytes) -> None:
            self.transport.write(b"head ")
            self.transport.write(b"body")
            self.transport.close()  # what was written comes before the end

    async def records() -> list[bytes]:
        layered = secured(TlsServer(CERTIFICATE, KEY, b"http/1.1"), Pieces, HANDSHAKE_S)
        server = await asyncio.get_running_loop().create_server(layered, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.get_running_loop().run_in_executor(None, ask, port)
        server.close()
        return found

    def ask(port: int) -> list[bytes]:
        """Return the plain text of each record."""
        session, found = TlsSession.connect(), []
        with plain(port) as network, network.makefile("rb") as arriving:
            network.sendall(session.take())
            asked = False
            while head := arriving.read(5):
                session.feed(head + arriving.read(int.from_bytes(head[3:])))
                if not asked and not session.is_handshaking:
                    asked = session.write(b"x") == 1
                network.sendall(session.take())
                if text := session.read(100):
                    found.append(text)
        return found

    assert asyncio.run(records()) == [b"head body"]
