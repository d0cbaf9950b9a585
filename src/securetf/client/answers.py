"""What the local program is told when its bytes did not go out: in HTTP/1.1, or in HTTP/2 for gRPC."""

import asyncio
import contextlib
import json

from securetf.errors import SecuretfError
from securetf.service_errors import ClientNotAuthorisedError, ServiceUnreachableError

_SETTINGS, _GOAWAY = 4, 7  # frame types, RFC 9113 section 6
_INADEQUATE_SECURITY, _REFUSED_STREAM = 0xC, 0x7
_LINGER_S = 2.0


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


def http2(error: SecuretfError) -> bytes:
    """Return SETTINGS and GOAWAY; the latter's debug data is the error, which gRPC libraries show."""
    reason = _REFUSED_STREAM if isinstance(error, ServiceUnreachableError) else _INADEQUATE_SECURITY
    text = f"{error.code}: {error.problem}".encode()[:4000]
    return _frame(_SETTINGS, b"") + _frame(_GOAWAY, bytes(4) + reason.to_bytes(4, "big") + text)


async def refuse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: str, error: SecuretfError
) -> None:
    """Answer a local connection with an error, and end it without losing the answer to a RST."""
    writer.write(http2(error) if protocol == "h2" else http1(error))
    with contextlib.suppress(OSError, TimeoutError):
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(65536):
                pass


def _frame(kind: int, payload: bytes) -> bytes:
    """Return a frame of stream 0 without flags."""
    return len(payload).to_bytes(3, "big") + bytes([kind, 0]) + bytes(4) + payload
