"""HTTPS to one pinned CAS: the key is compared after the handshake and before a byte of the request.

TLS is `securetf.tls`'s, whose connections have an exporter. HTTP is the little that a CAS speaks (`http1`): a
volume's writer waits for a request with each fsync.
"""

import hashlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urlsplit

from securetf.cas_client.http1 import Connection, CutError, ImproperError, UnansweredError
from securetf.cas_client.spki import subject_public_key_info
from securetf.errors import CasIdentityError, CasProtocolError, CasUnreachableError
from securetf.tls.client import ClientSocket
from securetf.wire import MAX_BODY_BYTES

_MAX_ANSWER_BYTES = 4 * MAX_BODY_BYTES  # a page of the audit log is the largest answer
_MAX_IDLE = 16  # connections kept
_UNREAD = (UnansweredError, BrokenPipeError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_CUT = (CutError, ssl.SSLEOFError, ssl.SSLZeroReturnError)  # as ConnectionError: its end is gone


class Line:
    """One connection that several requests share. Used by one thread."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def exporter(self, label: str) -> bytes:
        """Return 32 bytes that only the two ends of the connection know, once a request was answered."""
        if self.connection is None or self.connection.is_last:
            raise CasUnreachableError("the CAS closed the connection", "try again")
        return self.connection.secured.exporter(label)


class Transport:
    """Sends requests to one CAS over kept-alive connections. Thread-safe."""

    def __init__(self, url: str, spki_sha256: str | None, *, deadline_s: float) -> None:
        """url: https://host:port. spki_sha256: hex of the pinned key; None only at the first look."""
        parts = urlsplit(url)
        if parts.scheme != "https" or parts.hostname is None or parts.path not in ("", "/"):
            raise CasIdentityError(
                f"{url!r} is not https://host:port", "give the address that the CAS printed"
            )
        self._host, self._port = parts.hostname, parts.port or 443
        self._pin, self._deadline_s = spki_sha256, deadline_s
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self.seen_spki = b""

    @property
    def address(self) -> str:
        """host:port, for messages."""
        return f"{self._host}:{self._port}"

    def send(
        self,
        method: str,
        target: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        repeatable: bool,
        over: "Line | None" = None,
    ) -> tuple[int, bytes]:
        """Return status and body of the answer.

        repeatable: doing it twice is the same as once, so a request whose answer was lost is sent once more.
        Otherwise only a request on an idle connection that the CAS had closed, which it never read, is.
        over: the first request decides which connection it holds, later ones go over that one or nowhere.

        Raises:
            CasUnreachableError: no answer within the deadline. CasIdentityError: another key.
            CasProtocolError: not HTTP, or an answer that is too large.
        """
        deadline = time.monotonic() + self._deadline_s
        for attempt in (1, 2):
            held = None if over is None else over.connection
            connection, fresh = (held, True) if held is not None else self._connection(deadline)
            try:
                if connection.is_last:
                    raise UnansweredError
                answer = connection.exchange(
                    method, target, body, dict(headers), deadline=deadline, limit=_MAX_ANSWER_BYTES
                )
                if over is None:
                    self._keep(connection)
                else:
                    over.connection = connection
                return answer
            except (ConnectionError, *_CUT) as error:
                connection.close()
                unread = not fresh and isinstance(error, _UNREAD)
                if attempt == 2 or held is not None or not (repeatable or unread):
                    raise self._unreachable(f"the connection was lost ({type(error).__name__})") from None
            except TimeoutError:
                connection.close()
                raise self._unreachable(f"no answer within {self._deadline_s:g} s") from None
            except (ImproperError, ssl.SSLError) as error:
                connection.close()
                what = error if isinstance(error, ImproperError) else type(error).__name__
                raise CasProtocolError(
                    f"{self.address} gave no proper answer ({what})",
                    "check that this is a CAS of this release",
                ) from None
            except BaseException:
                connection.close()
                raise
        raise AssertionError("unreachable")

    @contextmanager
    def line(self) -> Iterator["Line"]:
        """Hold one connection: requests `over` it share its TLS session, whose exporter it has."""
        line = Line()
        try:
            yield line
        except BaseException:
            if line.connection is not None:
                line.connection.close()
            raise
        if line.connection is not None:
            self._keep(line.connection)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _connection(self, deadline: float) -> tuple[Connection, bool]:
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if not _ended(connection):
                    return connection, False
                connection.close()
        return self._connect(deadline), True

    def _connect(self, deadline: float) -> Connection:
        try:
            plain = socket.create_connection((self._host, self._port), timeout=self._left(deadline))
        except OSError as error:
            raise self._unreachable(error.strerror or type(error).__name__) from None
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            secured = ClientSocket(plain)
        except (OSError, ValueError) as error:
            plain.close()
            if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
                raise CasProtocolError(
                    f"{self.address} does not speak TLS 1.3: {error.strerror}",
                    "check the address; a CAS listens with TLS 1.3 only",
                ) from None
            raise self._unreachable("the TLS handshake was cut or timed out") from None
        try:
            self._check_pin(secured)
        except BaseException:
            secured.close()
            raise
        host = f"[{self._host}]" if ":" in self._host else self._host
        return Connection(secured, f"{host}:{self._port}")

    def _check_pin(self, secured: ClientSocket) -> None:
        spki = subject_public_key_info(secured.certificate)
        found = hashlib.sha256(spki).hexdigest()
        if self._pin is not None and found != self._pin:
            raise CasIdentityError(
                f"{self.address} has the key {found}, pinned is {self._pin}; nothing was sent",
                "check the address; if the CAS was set up anew, attest it again with `securetf cas attest`",
            )
        self._pin = found  # later connections of this transport meet the same CAS
        self.seen_spki = spki

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            if not connection.is_last and len(self._idle) < _MAX_IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _unreachable(self, what: str) -> CasUnreachableError:
        return CasUnreachableError(
            f"the CAS at {self.address} cannot be reached: {what}",
            "check that it runs (`securetf cas status`), the address and the network, then try again",
        )


def _ended(connection: Connection) -> bool:
    """Whether the other side of an idle connection has closed it: nothing else makes it readable."""
    waiting = select.poll()
    waiting.register(connection.secured, select.POLLIN)
    return bool(waiting.poll(0))
