"""What the local program is told when its bytes did not go out: in HTTP/1.1, or in HTTP/2 as gRPC has it."""

import asyncio
import contextlib
import json
from urllib.parse import quote

from securetf.errors import SecuretfError
from securetf.service_errors import ClientNotAuthorisedError, ServiceUnreachableError

_LINGER_S = 2.0  # for the program to read its answer, before the connection is closed
_PREFACE_BYTES, _HEAD_BYTES, _MAX_FRAME_BYTES = 24, 9, 16384  # RFC 9113 sections 3.4, 4.1, 6.5.2
_HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 1, 3, 4, 6, 7  # frame types, section 6
_END_STREAM, _ACK, _END_HEADERS = 0x1, 0x1, 0x4
_FAILED_PRECONDITION, _UNAVAILABLE, _PERMISSION_DENIED = 9, 14, 7  # of gRPC
_MAX_MESSAGE = 2000  # characters


def http1(error: SecuretfError) -> bytes:
    """Return a whole response: 502, 504 or 403, with the error as JSON (docs/how-to/verify-a-service.md)."""
    status = "502 Bad Gateway"
    if isinstance(error, ServiceUnreachableError):
        status = "504 Gateway Timeout"
    if isinstance(error, ClientNotAuthorisedError):
        status = "403 Forbidden"
    body = json.dumps({"error": error.problem, "code": error.code, "fix": error.fix}).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"securetf-error: {error.code}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


def grpc_trailers(error: SecuretfError) -> bytes:
    """Return the header block (HPACK, literals alone) of a response that is only a gRPC status."""
    status = _FAILED_PRECONDITION
    if isinstance(error, ServiceUnreachableError):
        status = _UNAVAILABLE
    if isinstance(error, ClientNotAuthorisedError):
        status = _PERMISSION_DENIED
    message = quote(f"{error.code}: {error.problem}"[:_MAX_MESSAGE], safe=" !#$&'()*+,/:;=?@[]-_.~\"<>|{}^`")
    fields = {
        ":status": "200",
        "content-type": "application/grpc",
        "grpc-status": str(status),
        "grpc-message": message,
        "securetf-error": error.code,
    }
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in fields.items())


async def refuse(
    first: bytes,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    protocol: str,
    error: SecuretfError,
) -> None:
    """Answer a local connection with an error, and end it without losing the answer to a RST.

    first: what was read of it already.
    """
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            if protocol == "h2":
                await _refuse_streams(_Frames(first, reader), writer, error)
            else:
                writer.write(http1(error))
            await writer.drain()
            writer.write_eof()
            while await reader.read(65536):
                pass


async def _refuse_streams(frames: "_Frames", writer: asyncio.StreamWriter, error: SecuretfError) -> None:
    """Answer each stream that begins with a gRPC status, until the program is content or the time is over."""
    trailers, last = grpc_trailers(error), 0
    writer.write(_frame(_SETTINGS, 0, 0, b""))
    try:
        while True:
            kind, flags, stream, payload = await frames.next()
            if kind == _HEADERS:
                last = max(last, stream)
                writer.write(_frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, trailers))
                writer.write(_frame(_RST_STREAM, 0, stream, bytes(4)))  # NO_ERROR: send no more of it
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                writer.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            await writer.drain()
    finally:
        writer.write(_frame(_GOAWAY, 0, 0, last.to_bytes(4, "big") + bytes(4)))


class _Frames:
    """The frames of a client's half of a connection, the preface left out."""

    def __init__(self, first: bytes, reader: asyncio.StreamReader) -> None:
        self._have, self._reader, self._begun = bytearray(first), reader, False

    async def next(self) -> tuple[int, int, int, bytes]:
        """Return type, flags, stream and payload. Raises EOFError at the end, or after what is no frame."""
        if not self._begun:
            await self._take(_PREFACE_BYTES)
            self._begun = True
        head = await self._take(_HEAD_BYTES)
        size = int.from_bytes(head[:3], "big")
        if size > _MAX_FRAME_BYTES:
            raise EOFError
        return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, await self._take(size)

    async def _take(self, size: int) -> bytes:
        while len(self._have) < size:
            part = await self._reader.read(65536)
            if not part:
                raise EOFError
            self._have += part
        taken = bytes(self._have[:size])
        del self._have[:size]
        return taken


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def _string(text: str) -> bytes:
    """Return a string literal without Huffman coding (RFC 7541 section 5.2)."""
    raw = text.encode("ascii")
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, coded = len(raw) - 127, bytearray([127])
    while rest >= 128:
        coded.append(rest % 128 + 128)
        rest //= 128
    return bytes(coded) + bytes([rest]) + raw
