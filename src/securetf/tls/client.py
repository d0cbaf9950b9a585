"""A client's side: a blocking socket."""

import socket
import ssl
from contextlib import suppress

from securetf._core import TlsSession
from securetf.tls import fill

_READ = 64 << 10  # bytes asked of the network at a time


class ClientSocket:
    """A TLS 1.3 connection over a connected socket, whose timeout holds for each operation.

    Whoever answers holds the key of `certificate`; whose key that is, is for the caller to compare.
    """

    def __init__(self, plain: socket.socket) -> None:
        """Shake hands; the socket is then this one's.

        Raises:
            ssl.SSLError: no TLS 1.3; SSLEOFError: cut. OSError: as the socket's.
        """
        self._plain, self._session = plain, TlsSession.connect()
        while self._session.is_handshaking:
            self._send()
            arrived = plain.recv(_READ)
            if not arrived:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the handshake was cut")
            try:
                fill(self._session, arrived)
            except ssl.SSLError:
                with suppress(OSError):  # an alert that nobody may wait for
                    self._send()
                raise
        self._send()

    @property
    def certificate(self) -> bytes:
        """The other side's, DER."""
        return self._session.peer_certificate() or b""

    def exporter(self, label: str) -> bytes:
        """Return 32 bytes that only the two ends of this connection know."""
        return self._session.exporter(label.encode())

    def settimeout(self, timeout_s: float) -> None:
        """As a socket's."""
        self._plain.settimeout(timeout_s)

    def fileno(self) -> int:
        """As a socket's."""
        return self._plain.fileno()

    def sendall(self, data: bytes) -> None:
        """As a socket's."""
        view = memoryview(data)
        while view:
            taken = self._session.write(bytes(view))
            self._send()
            view = view[taken:]

    def receive(self, size: int) -> bytes:
        """Return what arrived, at most `size` bytes; empty when no more comes, be it cut off or ended."""
        while True:
            plain = self._session.read(size)
            if plain or self._session.has_ended:
                return plain
            arrived = self._plain.recv(_READ)
            if not arrived:
                return b""
            fill(self._session, arrived)
            self._send()

    def close(self) -> None:
        """End the connection."""
        self._plain.close()

    def _send(self) -> None:
        out = self._session.take()
        if out:
            self._plain.sendall(out)
