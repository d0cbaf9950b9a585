"""Element types of tensors under their three names, signatures of models, and the check of inputs against
them.

Strings are arrays of dtype object that hold `bytes`. Types: tensorflow/core/framework/types.proto;
Open Inference Protocol, "Tensor Data Types".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from securetf.serving.errors import invalid

Array = npt.NDArray[Any]
STRING = np.dtype(object)
PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class ElementType:
    """number, name: TensorFlow's. oip: the Open Inference Protocol's, empty where it has none."""

    number: int
    name: str
    dtype: np.dtype[Any]
    oip: str


_TYPES = tuple(
    ElementType(number, name, np.dtype(dtype), oip)
    for number, name, dtype, oip in (
        (1, "DT_FLOAT", "float32", "FP32"),
        (2, "DT_DOUBLE", "float64", "FP64"),
        (3, "DT_INT32", "int32", "INT32"),
        (4, "DT_UINT8", "uint8", "UINT8"),
        (5, "DT_INT16", "int16", "INT16"),
        (6, "DT_INT8", "int8", "INT8"),
        (7, "DT_STRING", "object", "BYTES"),
        (8, "DT_COMPLEX64", "complex64", ""),
        (9, "DT_INT64", "int64", "INT64"),
        (10, "DT_BOOL", "bool", "BOOL"),
        (17, "DT_UINT16", "uint16", "UINT16"),
        (18, "DT_COMPLEX128", "complex128", ""),
        (19, "DT_HALF", "float16", "FP16"),
        (22, "DT_UINT32", "uint32", "UINT32"),
        (23, "DT_UINT64", "uint64", "UINT64"),
    )
)
BY_NUMBER = {one.number: one for one in _TYPES}
BY_DTYPE = {one.dtype: one for one in _TYPES}
BY_OIP = {one.oip: one for one in _TYPES if one.oip}


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One input or output. shape: -1 where any size goes, None for an unknown number of dimensions.

    tensor_name: what the graph calls it, for metadata alone.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None
    tensor_name: str = ""

    @property
    def type(self) -> ElementType:
        """The names of the element type."""
        return BY_DTYPE[self.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a model takes and gives under one name. method: TensorFlow Serving's `method_name`."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str = PREDICT

    @property
    def batches(self) -> bool:
        """Whether the first dimension of every tensor is a number of examples that the caller chooses."""
        specs = (*self.inputs.values(), *self.outputs.values())
        return all(spec.shape is not None and spec.shape[:1] == (-1,) for spec in specs)


def fits(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> bool:
    """Whether a shape is one of those that a spec allows."""
    if wanted is None:
        return True
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(want in (-1, size) for size, want in pairs)


def check_inputs(signature: Signature, inputs: Mapping[str, Array], *, allow_non_finite: bool) -> None:
    """Refuse inputs that the signature does not take.

    Raises:
        Refusal: names, types or shapes differ, a size is 0, or a float is NaN or infinite without being
        allowed.
    """
    if inputs.keys() != signature.inputs.keys():
        invalid(
            f"inputs are {sorted(inputs)}, the signature takes {sorted(signature.inputs)}",
            "send exactly the inputs that the model's metadata names",
        )
    for name, array in inputs.items():
        spec = signature.inputs[name]
        if array.dtype != spec.dtype:
            got = BY_DTYPE[array.dtype].name if array.dtype in BY_DTYPE else str(array.dtype)
            invalid(f"input {name!r} is {got}, expected {spec.type.name}", "send the type of the metadata")
        if not fits(array.shape, spec.shape):
            wanted = list(spec.shape or ())
            invalid(f"input {name!r} has shape {list(array.shape)}, expected {wanted}", "-1 is any size")
        if 0 in array.shape:
            invalid(f"input {name!r} has shape {list(array.shape)}: it is empty", "send at least one element")
        if not allow_non_finite and array.dtype.kind in "fc" and not np.isfinite(array).all():
            invalid(
                f"input {name!r} holds NaN or infinite values",
                "send finite numbers, or let the operator start the service with --allow-non-finite",
            )


def from_bytes(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    """Return the tensor whose little-endian elements lie in `data`, without a copy.

    Raises:
        Refusal: the number of bytes is not that of the shape.
    """
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        invalid(
            f"tensor {name!r} has {len(data)} bytes, its shape needs {wanted}", "send little-endian elements"
        )
    if dtype == np.bool_ and not np.isin(np.frombuffer(data, np.uint8), (0, 1)).all():
        invalid(f"tensor {name!r} of booleans has other bytes than 0 and 1", "send 0 or 1")
    return np.frombuffer(data, dtype).reshape(shape)


def strings_from_bytes(data: memoryview, shape: tuple[int, ...], name: str) -> Array:
    """Return a tensor of strings, each after its length (4 bytes, little endian).

    Raises:
        Refusal: lengths and bytes do not meet, or there are more or fewer strings than the shape has.
    """
    found: list[bytes] = []
    position = 0
    while position < len(data):
        end = position + 4 + int.from_bytes(data[position : position + 4], "little")
        if end > len(data) or position + 4 > len(data):
            invalid(f"tensor {name!r} ends within a string", "write each string after its length in 4 bytes")
        found.append(bytes(data[position + 4 : end]))
        position = end
    return shaped(strings(found), shape, name)


def strings_to_bytes(array: Array) -> bytes:
    """Return what `strings_from_bytes` reads."""
    return b"".join(len(one).to_bytes(4, "little") + one for one in array.ravel())


def strings(values: list[bytes]) -> Array:
    """Return a one-dimensional tensor of strings."""
    array = np.empty(len(values), STRING)
    array[:] = values
    return array


def shaped(array: Array, shape: tuple[int, ...], name: str) -> Array:
    """Return the array in this shape.

    Raises:
        Refusal: it has another number of elements.
    """
    if array.size != math.prod(shape):
        invalid(
            f"tensor {name!r} has {array.size} elements, its shape {list(shape)} another number",
            "make them agree",
        )
    return array.reshape(shape)
