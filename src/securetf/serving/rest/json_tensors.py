"""JSON values to arrays and back, as TensorFlow Serving has them in both its forms (RESTful API, "Request
format").
"""

import base64
import binascii
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson

from securetf.serving.errors import invalid
from securetf.serving.tensors import STRING, Array, TensorSpec, from_bytes, strings

_MAX_DIMENSIONS = 32


def loads(body: bytes | memoryview) -> Any:
    """Return a JSON document; NaN and Infinity are read, as TensorFlow Serving reads them.

    Raises:
        Refusal: not JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        text = bytes(body)
        if b"NaN" in text or b"Infinity" in text:
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                pass
        invalid(f"JSON Parse error: {error.msg} at byte {error.pos}", "send a JSON document in UTF-8")


def dumps(document: Any, arrays: Mapping[str, Array]) -> bytes:
    """Return a JSON document that holds numeric arrays or parts of them. Numbers have as many digits as their
    type needs to be read back exactly; NaN, Infinity and -Infinity stand for what JSON has no number for.
    """
    if all(array.dtype.kind != "f" or np.isfinite(array).all() for array in arrays.values()):
        return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY, default=_plain)
    return json.dumps(document, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(type(value).__name__)


def to_array(value: Any, spec: TensorSpec, name: str) -> Array:
    """Return a JSON value as a tensor of the type that the model takes.

    `{"b64": …}` is a string's bytes; where the model takes numbers, it is their little-endian elements, for
    one tensor or, in a list, for one example each.

    Raises:
        Refusal: ragged, of another type, or not base64.
    """
    if spec.dtype == STRING:
        return _strings(value, name)
    raw = _raw_numbers(value, spec, name)
    if raw is not None:
        return raw
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        invalid(
            f"input {name!r} is ragged, or its lists are too deep", "make all lists of one level equally long"
        )
    return _cast(array, spec, name)


def _cast(array: Array, spec: TensorSpec, name: str) -> Array:
    dtype, kind = spec.dtype, array.dtype.kind
    if dtype.kind == "f" and kind in "fiu":
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    if dtype.kind in "iu" and kind in "iu":
        limits = np.iinfo(dtype)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            invalid(f"input {name!r} has values that {spec.type.name} cannot hold", "send values of its type")
        return array.astype(dtype)
    if dtype.kind == "b" and kind == "b":
        return array
    return invalid(
        f"input {name!r} has values that are not {spec.type.name}", "send the type of the metadata"
    )


def _raw_numbers(value: Any, spec: TensorSpec, name: str) -> Array | None:
    first = value[0] if isinstance(value, list) and value else value
    if not _is_b64(first):
        return None
    shape = spec.shape
    if shape is None or any(size < 0 for size in shape[1:]):
        invalid(f"input {name!r} has no fixed shape, so base64 does not say which", "send lists")
    content = b"".join(_b64(one, name) for one in value) if isinstance(value, list) else _b64(value, name)
    size = math.prod(shape[1:]) * spec.dtype.itemsize
    rows = len(content) // size if size else 0
    return from_bytes(memoryview(content), spec.dtype, (rows, *shape[1:]) if shape else (), name)


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _b64(value: Any, name: str) -> bytes:
    if _is_b64(value) and isinstance(value["b64"], str):
        try:
            return binascii.a2b_base64(value["b64"], strict_mode=True)
        except (binascii.Error, ValueError):
            pass
    return invalid(f"input {name!r} has a value that is not base64", 'write {"b64": "…"} with padding')


def _strings(value: Any, name: str) -> Array:
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > _MAX_DIMENSIONS:
            invalid(f"input {name!r} has more than {_MAX_DIMENSIONS} dimensions", "send fewer")
        level = level[0] if level else None
    found = list(_flat(value, shape, 0, name))
    return strings(found).reshape(shape)


def _flat(value: Any, shape: list[int], depth: int, name: str) -> Iterator[bytes]:
    if depth < len(shape):
        if not isinstance(value, list) or len(value) != shape[depth]:
            invalid(f"input {name!r} is ragged", "make all lists of one level equally long")
        for one in value:
            yield from _flat(one, shape, depth + 1, name)
    elif isinstance(value, str):
        yield value.encode("utf-8", "surrogatepass")
    else:
        yield _b64(value, name)


def from_array(array: Array, name: str) -> Any:
    """Return what `dumps` takes: numeric arrays as they are, strings as text or `{"b64": …}`.

    Bytes: where the name of the output ends in `_bytes`, or where they are not UTF-8.
    """
    if array.dtype != STRING:
        return array if array.flags.c_contiguous and array.ndim else array.tolist()
    flat = [_text(one, as_bytes=name.endswith("_bytes")) for one in array.ravel()]
    nested: Any = np.empty(len(flat), object)
    nested[:] = flat
    return nested.reshape(array.shape).tolist()


def _text(value: bytes, *, as_bytes: bool) -> Any:
    if not as_bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}
