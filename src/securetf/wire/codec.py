"""Encoding and strict decoding of messages."""

from functools import cache
from typing import Any, TypeVar

import msgspec

from securetf.errors import LimitError, UsageError
from securetf.wire.messages import Message

MAX_BODY_BYTES = 1 << 20
MAX_DEPTH = 16

_M = TypeVar("_M", bound=Message)
_OPENING, _CLOSING = b"{[", b"}]"


def encode(message: Message) -> bytes:
    """Return the JSON text of a message, UTF-8, without spaces."""
    return msgspec.json.encode(message)


def decode(raw: bytes, kind: type[_M]) -> _M:
    """Read one message of this kind and nothing else.

    Raises:
        LimitError: more than MAX_BODY_BYTES, or nested deeper than MAX_DEPTH.
        UsageError: not JSON, or not of this kind; the message names the field.
    """
    if len(raw) > MAX_BODY_BYTES:
        raise LimitError(
            f"message has {len(raw)} bytes, the limit is {MAX_BODY_BYTES}", "send a smaller message"
        )
    _check_depth(raw)
    try:
        return _decoder(kind).decode(raw)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{kind.__name__}: {error}", "send the message as docs/formats/wire-v1.md gives it"
        ) from None


@cache
def _decoder(kind: type[Message]) -> Any:
    return msgspec.json.Decoder(kind, strict=True)


def _check_depth(raw: bytes) -> None:
    """Count brackets outside of strings; a cheap bound before the parser sees the text."""
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return
    depth, in_string, escaped = 0, False, False
    for byte in raw:
        if in_string:
            in_string = escaped or byte != 0x22
            escaped = byte == 0x5C and not escaped
        elif byte == 0x22:
            in_string = True
        elif byte in _OPENING:
            depth += 1
            if depth > MAX_DEPTH:
                raise LimitError(
                    f"message is nested deeper than {MAX_DEPTH}", "send the message as documented"
                )
        elif byte in _CLOSING:
            depth -= 1
