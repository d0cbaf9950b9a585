"""A listener's side, for asyncio, whose TLS asks a context for an object: this one gives rustls'."""

import ssl
from typing import Any, cast

from securetf._core import TlsServer, TlsSession
from securetf.tls import fill

_ALL = 1 << 30  # bytes; more than a session ever holds


class ServerContext(ssl.SSLContext):
    """Proves one key; TLS 1.3 alone, and nothing is resumed: each connection proves the key.

    `ssl.SSLContext` by name only: asyncio calls `wrap_bio` for each connection; nothing else of it counts.
    """

    _server: TlsServer

    @classmethod
    def of(cls, certificate: bytes, key: bytes, *, protocol: str) -> "ServerContext":
        """certificate: DER. key: PKCS #8, DER. protocol: what ALPN may agree on."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._server = TlsServer(certificate, key, protocol.encode())
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # the signature is `ssl`'s
        server_hostname: str | bytes | None = None,  # noqa: ARG002
        session: ssl.SSLSession | None = None,  # noqa: ARG002
    ) -> ssl.SSLObject:
        """Return the server's end of a new connection, a `ServerConnection`."""
        if not server_side:
            raise ValueError("a server's context makes servers")
        return cast(ssl.SSLObject, ServerConnection(self._server.accept(), incoming, outgoing))


class ServerConnection:
    """What asyncio uses of `ssl.SSLObject`, with its errors, and the exporter."""

    def __init__(self, session: TlsSession, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._session, self._incoming, self._outgoing = session, incoming, outgoing
        self._closed = False

    def exporter(self, label: str) -> bytes:
        """Return 32 bytes that only the two ends of this connection know."""
        return self._session.exporter(label.encode())

    def do_handshake(self) -> None:
        """Go on. Raises SSLWantReadError until the client has finished."""
        self._receive()
        if self._session.is_handshaking:
            raise self._more()

    def read(self, size: int = 1024, buffer: Any = None) -> bytes | int:
        """Return what arrived, empty once the client sends no more; with `buffer`, how much is in it."""
        self._receive()
        plain = self._session.read(size)
        if not plain and not self._session.has_ended:
            raise self._more()
        if buffer is None:
            return plain
        buffer[: len(plain)] = plain
        return len(plain)

    def write(self, data: Any) -> int:
        """Encrypt, and return how much was taken."""
        taken = self._session.write(data if isinstance(data, bytes) else bytes(data))
        self._send()
        return taken

    def unwrap(self) -> None:
        """Say that we send no more. Raises SSLWantReadError until the client has said so, too."""
        if not self._closed:
            self._closed = True
            self._session.close()
            self._send()
        self._receive()
        self._session.read(_ALL)
        if not self._session.has_ended:
            raise self._more()

    def getpeercert(self, binary_form: bool = False) -> None:
        """Clients have no certificate."""

    def cipher(self) -> None:
        """Nobody asks."""

    def compression(self) -> None:
        """There is none in TLS 1.3."""

    def _receive(self) -> None:
        arrived = self._incoming.read()
        if arrived:
            try:
                fill(self._session, arrived)
            finally:
                self._send()

    def _send(self) -> None:
        self._outgoing.write(self._session.take())

    def _more(self) -> ssl.SSLError:
        if self._incoming.eof:
            return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was cut")
        return ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more has to arrive")
