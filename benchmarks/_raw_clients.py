"""Clients that cost next to nothing: one request, whose bytes are made beforehand, written to a socket again
and again; the answer is read to its end and not looked into further than its status.

What an exchange takes with them is the server's and the kernel's; what it takes longer with a Python client
is that client's own.
"""

import socket
import struct
from collections.abc import Callable

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW = 0, 1, 4, 6, 8  # RFC 9113, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_INITIAL_WINDOW, _MAX_FRAME = 4, 5  # settings
_WIDE = 1 << 30
_TRAILERS = (b"grpc-status", b"\x9a\xca\xc8\xb2\x12\x34\xda\x8f")  # the second: in Huffman's code


def http_client(address: str, message: bytes) -> Callable[[], None]:
    """Return one exchange of HTTP/1.1 over a connection that stays open."""
    connection = _connected(address)

    def ask() -> None:
        connection.sendall(message)
        answer = connection.recv(1 << 16)
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(1 << 16)
        head, _, content = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(answer)
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        left = int(length) - len(content)
        while left > 0:
            left -= len(connection.recv(1 << 16))

    return ask


def _connected(address: str) -> socket.socket:
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class GrpcClient:
    """Unary calls of one method with one message over HTTP/2, one at a time. Calling it is one exchange."""

    def __init__(self, address: str, path: str, message: bytes) -> None:
        self._socket = _connected(address)
        self._read = b""
        self._stream = -1
        self._connection_window = self._initial_window = 65_535
        self._most = 16_384
        self._message = b"\0" + len(message).to_bytes(4, "big") + message
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": path,
            ":authority": "service",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        self._head = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields.items()  # RFC 7541, 6.2.2: never indexed by the other side
        )
        settings = struct.pack("!HI", _INITIAL_WINDOW, _WIDE)
        widened = struct.pack("!I", _WIDE)
        self._socket.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW, 0, 0, widened))
        while not self._settle(*self._next()):
            pass

    def __call__(self) -> None:
        self._stream += 2
        stream, begin = self._stream, 0
        self._window = self._initial_window
        ahead = [_frame(_HEADERS, _END_HEADERS, stream, self._head)]
        while begin < len(self._message):
            while not (room := min(self._window, self._connection_window, self._most)) > 0:
                self._settle(*self._next())
            part = self._message[begin : begin + room]
            begin += len(part)
            self._window -= len(part)
            self._connection_window -= len(part)
            ahead.append(_frame(_DATA, _END_STREAM * (begin == len(self._message)), stream, part))
            if min(self._window, self._connection_window) == 0 or begin == len(self._message):
                self._socket.sendall(b"".join(ahead))
                ahead = []
        answered = b""
        while True:
            kind, flags, number, content = self._next()
            if number != stream:
                self._settle(kind, flags, number, content)
                continue
            if kind == _DATA:
                answered += content
            elif kind == _WINDOW:
                self._settle(kind, flags, number, content)
            if flags & _END_STREAM and kind in (_DATA, _HEADERS):
                if not answered:
                    raise SystemExit(f"the call failed: {content!r}")
                return

    def _settle(self, kind: int, flags: int, number: int, content: bytes) -> bool:
        """Take what the server says about itself; whether it was its settings."""
        if kind == _WINDOW:
            (more,) = struct.unpack("!I", content)
            if number:
                self._window += more
            else:
                self._connection_window += more
        elif kind == _PING and not flags & _ACK:
            self._socket.sendall(_frame(_PING, _ACK, 0, content))
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in struct.iter_unpack("!HI", content):
                if name == _INITIAL_WINDOW:
                    self._window = getattr(self, "_window", 0) + value - self._initial_window
                    self._initial_window = value
                elif name == _MAX_FRAME:
                    self._most = value
            self._socket.sendall(_frame(_SETTINGS, _ACK, 0, b""))
            return True
        return False

    def _next(self) -> tuple[int, int, int, bytes]:
        """Return type, flags, stream and content of the next frame."""
        head = self._exactly(9)
        size = int.from_bytes(head[:3], "big")
        return head[3], head[4], int.from_bytes(head[5:], "big"), self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            more = self._socket.recv(1 << 16)
            if not more:
                raise SystemExit("the server closed the connection")
            self._read += more
        found, self._read = self._read[:size], self._read[size:]
        return found


def _frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content
