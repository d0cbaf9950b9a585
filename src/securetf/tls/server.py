"""A listener's side: a layer between asyncio's TCP transport and the protocol that serves the plain text.

Not asyncio's own layer: that asks for OpenSSL's objects, and sends each piece of an answer as a record and a
segment of its own. Here what is written in one turn of the loop goes out together.
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, cast

from securetf._core import TlsServer, TlsSession
from securetf.tls import fill

__all__ = ["TlsServer", "secured"]

_CLOSING_S = 30.0
_ALL = 1 << 30  # bytes; more than a session ever holds


def secured(
    server: TlsServer, make: Callable[..., asyncio.Protocol], handshake_s: float
) -> Callable[..., asyncio.Protocol]:
    """Return a maker of protocols for plain TCP, each of which serves one that `make` makes under TLS.

    That one hears of a connection once it is secure. Its transport's extra info has `exporter`, which returns
    32 bytes for a label that only the two ends of this connection know. A handshake that takes longer than
    `handshake_s` ends the connection.
    """

    def layered(*arguments: Any, **named: Any) -> asyncio.Protocol:
        return _Layer(server.accept(), make(*arguments, **named), handshake_s)

    return layered


class _Layer(asyncio.Protocol):
    """What comes from the network, until the connection ends."""

    _raw: asyncio.Transport
    _transport: "_Transport | None" = None  # once it is secure

    def __init__(self, session: TlsSession, inner: asyncio.Protocol, handshake_s: float) -> None:
        self._session, self._inner, self._handshake_s = session, inner, handshake_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._handshake_s, self._raw.abort)

    def data_received(self, data: bytes) -> None:
        if self._raw.is_closing():
            return
        try:
            fill(self._session, data)
        except ssl.SSLError:
            self._raw.write(self._session.take())  # the alert
            self._raw.close()
            return
        out = self._session.take()
        if out:
            self._raw.write(out)
        if self._transport is None:
            if self._session.is_handshaking:
                return
            self._timer.cancel()
            self._transport = _Transport(self._raw, self._session)
            self._inner.connection_made(self._transport)
        plain = self._session.read(_ALL)
        if plain:
            self._inner.data_received(plain)
        if self._session.has_ended:
            self._inner.eof_received()
            self._transport.close()

    def eof_received(self) -> None:
        if self._transport is not None:
            self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if self._transport is not None:
            self._transport.lost()
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._transport is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._inner.resume_writing()


class _Transport(asyncio.Transport):
    """What goes to the network: plain text in, records out at the end of the loop's turn."""

    def __init__(self, raw: asyncio.Transport, session: TlsSession) -> None:
        super().__init__({"sslcontext": session, "exporter": lambda label: session.exporter(label.encode())})
        self._raw, self._session = raw, session
        self._waiting: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        own = super().get_extra_info(name)
        return self._raw.get_extra_info(name, default) if own is None else own

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(bytes(data))

    def close(self) -> None:
        if not self._raw.is_closing():
            self._flush()
            self._session.close()
            self._raw.write(self._session.take())
            self._raw.close()
            if self._raw.get_write_buffer_size():
                self._loop.call_later(_CLOSING_S, self._raw.abort)  # the peer may never read it

    def abort(self) -> None:
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._raw.resume_reading()

    def lost(self) -> None:
        """Forget what was not sent."""
        self._waiting.clear()

    def _flush(self) -> None:
        plain = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        if self._raw.is_closing():
            return
        while plain:
            taken = self._session.write(bytes(plain))
            self._raw.write(self._session.take())
            plain = plain[taken:]
