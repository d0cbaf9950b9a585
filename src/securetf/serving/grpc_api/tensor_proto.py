"""TensorProto to arrays and back: tensorflow/core/framework/tensor.proto."""

import math
from typing import Any

import numpy as np

from securetf.serving.errors import invalid
from securetf.serving.protocols import message
from securetf.serving.tensors import BY_DTYPE, BY_NUMBER, STRING, Array, from_bytes, shaped, strings

_MAX_DIMENSIONS, _MAX_ELEMENTS = 32, 1 << 31
_FIELDS = {  # TensorFlow's number of the type → the field of its values when they are not in tensor_content
    1: "float_val",
    2: "double_val",
    3: "int_val",
    4: "int_val",
    5: "int_val",
    6: "int_val",
    7: "string_val",
    8: "scomplex_val",
    9: "int64_val",
    10: "bool_val",
    17: "int_val",
    18: "dcomplex_val",
    19: "half_val",
    22: "uint32_val",
    23: "uint64_val",
}
# Fields whose packed values are the little-endian elements themselves: element → key of the field, which is
# its number times 8 plus 2.
_PACKED = {"f4": 0x2A, "f8": 0x32, "c8": 0x4A, "c16": 0x62}


def to_array(tensor: Any, name: str) -> Array:
    """Return the value of a TensorProto, without a copy where it is in `tensor_content`.

    Raises:
        Refusal: unknown type or shape, or more values than the shape has.
    """
    kind = BY_NUMBER.get(tensor.dtype)
    if kind is None:
        invalid(
            f"tensor {name!r} has the type number {tensor.dtype}, which is not served",
            "convert it in the client",
        )
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if tensor.tensor_shape.unknown_rank or min(shape, default=0) < 0 or len(shape) > _MAX_DIMENSIONS:
        invalid(f"tensor {name!r} has no definite shape", "send the size of each dimension")
    if size > _MAX_ELEMENTS:
        invalid(f"tensor {name!r} has {size} elements", f"send at most {_MAX_ELEMENTS}")
    if tensor.tensor_content:
        if kind.dtype == STRING:
            invalid(f"tensor {name!r} of strings is in tensor_content", "send strings in string_val")
        return from_bytes(memoryview(tensor.tensor_content), kind.dtype, shape, name)
    values = getattr(tensor, _FIELDS[kind.number])
    if kind.dtype == STRING:
        return shaped(strings(list(values)), shape, name)
    return _filled(_elements(values, kind.dtype, name), size, name).reshape(shape)


def _elements(values: Any, dtype: np.dtype[Any], name: str) -> Array:
    if dtype == np.float16:
        return np.array(values, np.uint16).view(np.float16)
    if dtype.kind == "c":
        return np.array(values, f"f{dtype.itemsize // 2}").view(dtype)
    wide = np.array(values)
    if dtype.kind in "iu" and wide.size and dtype.itemsize < 4:
        limits = np.iinfo(dtype)
        if wide.min() < limits.min or wide.max() > limits.max:
            invalid(f"tensor {name!r} has values that its type cannot hold", "send values of its type")
    return wide.astype(dtype)


def _filled(elements: Array, size: int, name: str) -> Array:
    """The last value stands for all that are left out."""
    if elements.size > size or (size and not elements.size):
        invalid(f"tensor {name!r} has {elements.size} elements, its shape {size}", "make them agree")
    if elements.size == size:
        return elements
    if size > (1 << 24):
        invalid(f"tensor {name!r} leaves out too many values", "send them")
    return np.concatenate([elements, np.full(size - elements.size, elements[-1])])


def to_tensor(array: Array) -> Any:
    """Return a TensorProto with its values in the field of their type, where clients of TensorFlow Serving
    look.

    Fixed-size types are written as the bytes they have on the wire anyway.
    """
    kind = BY_DTYPE[array.dtype]
    key = _PACKED.get(array.dtype.str[1:])
    raw = b""
    if key is not None and array.size:
        content = np.ascontiguousarray(array).tobytes()
        raw = bytes([key]) + _varint(len(content)) + content
    tensor = message("tfs.TensorProto").FromString(raw)
    tensor.dtype = kind.number
    for size in array.shape:
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_shape.SetInParent()
    if key is None:
        flat = array.view(np.uint16) if array.dtype == np.float16 else array
        getattr(tensor, _FIELDS[kind.number]).extend(flat.ravel().tolist())
    return tensor


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)
