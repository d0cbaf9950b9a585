"""ModelInferRequest with its raw tensors where they arrived.

protobuf copies a field of bytes when it parses the message and again when it is read; that is most of what a
large tensor costs. So the top level of a large message is walked here, `raw_input_contents` stays in place,
and protobuf gets the rest (protobuf.dev, "Encoding": a field may stand anywhere, each by itself).
"""

from collections.abc import Sequence
from typing import Any

from securetf.serving.grpc_api.calls import parsed

_FROM_BYTES = 64 << 10  # below, the copies cost less than the walk
_MOST_FIELDS = 256  # a message of more goes to protobuf whole
_KEY = 7 << 3 | 2  # field 7, length-delimited
_FIXED = {1: 8, 5: 4}  # wire type → size
_VARINT, _DELIMITED = 0, 2

Inference = tuple[Any, Sequence[memoryview]]


def inference(name: str, raw: bytes) -> Inference:
    """Return the message, and its raw_input_contents, in order.

    Raises:
        Refusal: the bytes are not such a message.
    """
    apart = _apart(memoryview(raw)) if len(raw) >= _FROM_BYTES else None
    if apart is None:
        request = parsed(name, raw)
        return request, [memoryview(one) for one in request.raw_input_contents]
    rest, contents = apart
    return parsed(name, b"".join(rest)), contents


def _apart(raw: memoryview) -> tuple[list[memoryview], list[memoryview]] | None:
    """Return the other fields and the contents; None where protobuf is to decide what they are."""
    rest: list[memoryview] = []
    contents: list[memoryview] = []
    position = 0
    for _ in range(_MOST_FIELDS):
        start = position
        key, position = _varint(raw, start)
        kind = key & 7
        size = 0
        if kind == _DELIMITED:
            size, position = _varint(raw, position)
        elif kind == _VARINT:
            _, position = _varint(raw, position)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            return None
        begin, position = position, position + size
        if position > len(raw):
            return None
        if key == _KEY:
            contents.append(raw[begin:position])
        else:
            rest.append(raw[start:position])
        if position == len(raw):
            return rest, contents
    return None


def _varint(raw: memoryview, position: int) -> tuple[int, int]:
    """Return a number and where it ends; where it has none, a place behind the end."""
    value = 0
    for shift, byte in enumerate(raw[position : position + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, position + shift + 1
    return 0, len(raw) + 1
