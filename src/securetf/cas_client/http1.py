"""One kept-alive connection to a CAS, and as much of HTTP/1.1 (RFC 9112) as a CAS speaks.

A request is one write, so that the CAS wakes once for it; an answer has a length, or is none.
"""

import re
import time

from securetf.tls.client import ClientSocket

_MAX_HEAD_BYTES = 64 << 10
_READ = 64 << 10  # bytes
_START = b"HTTP/1.1 "
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\t\x20-\x7e]*)?\Z")
_END = b"\r\n\r\n"


class CutError(ConnectionError):
    """The other side ended the connection within its answer."""


class UnansweredError(CutError):
    """The other side ended the connection before its answer began."""


class ImproperError(Exception):
    """The other side sent what is no answer of this kind; the text says what."""


class Connection:
    """Used by one thread at a time. `is_last`: the other side has said that it takes no further request."""

    def __init__(self, secured: ClientSocket, authority: str) -> None:
        """authority: host and port, for the head of each request."""
        self.secured, self.is_last = secured, False
        self._host = f"Host: {authority}\r\n"

    def exchange(
        self, method: str, target: str, body: bytes, headers: dict[str, str], *, deadline: float, limit: int
    ) -> tuple[int, bytes]:
        """Send a request; return status and body of the answer. deadline: monotonic. limit: bytes of a body.

        Raises:
            CutError, OSError: the connection is gone. TimeoutError: the deadline has passed.
            ssl.SSLError, ImproperError: no answer of HTTP, or one that is too large.
        """
        request = self._request(method, target, body, headers)
        self.secured.settimeout(_left(deadline))
        self.secured.sendall(request)
        arrived = self._receive(b"", deadline)
        while (end := arrived.find(_END)) < 0:
            if len(arrived) > _MAX_HEAD_BYTES:
                raise ImproperError("a head without an end")
            arrived = self._receive(arrived, deadline)
        status, length = self._read_head(arrived[:end])
        if length > limit:
            raise ImproperError(f"it announced {length} bytes")
        whole = end + len(_END) + length
        while len(arrived) < whole:
            arrived = self._receive(arrived, deadline)
        if len(arrived) > whole:
            raise ImproperError("more than was announced")
        return status, arrived[end + len(_END) :]

    def close(self) -> None:
        """End the connection."""
        self.secured.close()

    def _request(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {target} HTTP/1.1\r\n{self._host}{lines}{length}\r\n"
        if head.count("\n") != len(headers) + 3 + bool(body) or target.count(" "):
            raise ValueError("a line end in a header, or a space in a target")
        return head.encode("ascii") + body

    def _receive(self, before: bytes, deadline: float) -> bytes:
        self.secured.settimeout(_left(deadline))
        part = self.secured.receive(_READ)
        if not part:
            raise CutError if before else UnansweredError
        arrived = before + part
        if not (arrived.startswith(_START) or _START.startswith(arrived)):
            raise ImproperError("it does not begin as HTTP/1.1")
        return arrived

    def _read_head(self, head: bytes) -> tuple[int, int]:
        first, *lines = head.split(b"\r\n")
        status = _STATUS.match(first)
        if status is None:
            raise ImproperError("its first line is not HTTP/1.1's")
        lengths = []
        for line in lines:
            name, colon, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            if not colon or name == b"transfer-encoding":
                raise ImproperError("a header that a CAS does not send")
            if name == b"content-length":
                lengths.append(value)
            elif name == b"connection":
                self.is_last = self.is_last or value.lower() != b"keep-alive"
        if len(lengths) != 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
            raise ImproperError("it does not say how long it is")
        return int(status[1]), int(lengths[0])


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
