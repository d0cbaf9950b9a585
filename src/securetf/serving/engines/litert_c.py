"""LiteRT's C interface (litert/c/*.h of LiteRT 2.3), as far as one model of fixed shapes needs it.

LiteRT's modules for Python pack weights, for as long as an answer takes, without giving up the GIL; ctypes
gives it up for each call. Structures are those that the headers call stable.
"""

import ctypes
from collections.abc import Mapping
from pathlib import Path

import ai_edge_litert
import numpy as np

from securetf.serving.tensors import Array

_CPU = 1  # kLiteRtHwAcceleratorCpu
_AUTO_REGISTER, _LOGGED_FROM = 24, 25  # LiteRtEnvOptionTag
_INTEGER = 2  # kLiteRtAnyTypeInt
_WARNING = 2  # LiteRtLogSeverity
_MAX_RANK = 8  # LITERT_TENSOR_MAX_RANK
_ALIGNMENT = 64  # LITERT_HOST_MEMORY_BUFFER_ALIGNMENT
_READ_BEYOND = 128  # XNNPACK may load that much behind a tensor (XNN_EXTRA_BYTES, xnnpack.h), and forgets it
_ELEMENTS = {  # LiteRtElementType
    np.dtype(name): number
    for name, number in {
        "bool": 6, "int8": 9, "int16": 7, "int32": 2, "int64": 4, "uint8": 3, "uint16": 17, "uint32": 16,
        "uint64": 13, "float16": 10, "float32": 1, "float64": 11,
    }.items()
}  # fmt: skip
_Handle = ctypes.c_void_p


class _Layout(ctypes.Structure):
    _fields_ = (
        ("rank", ctypes.c_uint32, 7),
        ("has_strides", ctypes.c_uint32, 1),
        ("dimensions", ctypes.c_int32 * _MAX_RANK),
        ("strides", ctypes.c_uint32 * _MAX_RANK),
    )


class _RankedTensorType(ctypes.Structure):
    _fields_ = (("element_type", ctypes.c_int), ("layout", _Layout))


class _EnvOption(ctypes.Structure):
    _fields_ = (("tag", ctypes.c_int), ("kind", ctypes.c_int64), ("value", ctypes.c_int64))


class UnsupportedError(Exception):
    """The C interface cannot compute this model in these shapes; the interpreter may."""


class Compiled:
    """One model that XNNPACK computes by itself, its weights packed, in the shapes of these tensors and no
    others. For one thread at a time.

    inputs, outputs: name → tensor like those that go in and out, in the order of the model's one signature.
    """

    def __init__(
        self, content: bytes, threads: int, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
    ) -> None:
        """Pack the weights.

        Raises:
            UnsupportedError: LiteRT refuses the model or these shapes.
        """
        self._handles: list[tuple[str, ctypes.c_void_p]] = []
        try:
            self._library = ctypes.CDLL(str(Path(ai_edge_litert.__path__[0]) / "libLiteRt.so"))
        except OSError:
            raise UnsupportedError("LiteRT came without the library of its C interface") from None
        self._content = content  # the model refers to it
        self._inputs = {name: _aligned(array) for name, array in inputs.items()}
        self._outputs = {name: _aligned(array) for name, array in outputs.items()}
        try:
            self._model = self._compile(threads)
            self._check_fixed()
            self._in = self._buffers(self._inputs)
            self._out = self._buffers(self._outputs)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs, which are the caller's own, for inputs of its shapes and types.

        Raises:
            RuntimeError: an operator refuses these inputs.
        """
        for name, place in self._inputs.items():
            np.copyto(place, inputs[name], casting="no")
        status = self._library.LiteRtRunCompiledModel(
            self._model,
            ctypes.c_size_t(0),
            ctypes.c_size_t(len(self._in)),
            self._in,
            ctypes.c_size_t(len(self._out)),
            self._out,
        )
        if status:
            raise RuntimeError(f"LiteRtStatus {status}")
        return {name: place.copy() for name, place in self._outputs.items()}

    def close(self) -> None:
        """Let memory and packed weights go; nothing else may be called afterwards."""
        while self._handles:
            kind, handle = self._handles.pop()
            getattr(self._library, f"LiteRtDestroy{kind}")(handle)

    def __del__(self) -> None:
        self.close()

    def _compile(self, threads: int) -> ctypes.c_void_p:
        options = (_EnvOption * 2)(
            _EnvOption(_AUTO_REGISTER, _INTEGER, _CPU), _EnvOption(_LOGGED_FROM, _INTEGER, _WARNING)
        )
        environment = self._made("Environment", len(options), options)
        size = ctypes.c_size_t(len(self._content))
        model = self._made("Model", environment, ctypes.c_char_p(self._content), size, by="ModelFromBuffer")
        wanted = self._made("Options")
        self._check(self._library.LiteRtSetOptionsHardwareAccelerators(wanted, _CPU))
        # What `LrtGetOpaqueCpuOptionsData` makes of the same options: TOML, which LiteRT frees.
        libc = ctypes.CDLL(None)
        libc.strdup.restype = ctypes.c_void_p
        toml = ctypes.c_void_p(libc.strdup(f"num_threads = {threads}\n".encode()))
        opaque = _Handle()
        self._check(
            self._library.LiteRtCreateOpaqueOptions(b"xnnpack", toml, libc.free, ctypes.byref(opaque))
        )
        self._check(self._library.LiteRtAddOpaqueOptions(wanted, opaque))  # which owns them from now on
        return self._made("CompiledModel", environment, model, wanted)

    def _made(self, kind: str, *arguments: object, by: str = "") -> ctypes.c_void_p:
        handle = _Handle()
        self._check(getattr(self._library, f"LiteRtCreate{by or kind}")(*arguments, ctypes.byref(handle)))
        self._handles.append((kind, handle))
        return handle

    def _check_fixed(self) -> None:
        """See that XNNPACK computes all of it, whose answers have the same shapes always: an operator of
        LiteRT's own may give more than there is room for, or less, and `run` would not be told.
        """
        alone = ctypes.c_bool()
        self._check(self._library.LiteRtCompiledModelIsFullyAccelerated(self._model, ctypes.byref(alone)))
        found = (_Layout * len(self._outputs))()
        status = self._library.LiteRtGetCompiledModelOutputTensorLayouts(
            self._model, ctypes.c_size_t(0), ctypes.c_size_t(len(found)), found, ctypes.c_bool(True)
        )
        self._check(status)
        shapes = [tuple(one.dimensions[: one.rank]) for one in found]
        if not alone or shapes != [array.shape for array in self._outputs.values()]:
            raise UnsupportedError(f"not by XNNPACK alone, or the outputs have other shapes: {shapes}")

    def _buffers(self, arrays: Mapping[str, Array]) -> ctypes.Array[ctypes.c_void_p]:
        handles = []
        for array in arrays.values():
            kind = _RankedTensorType(_ELEMENTS[array.dtype])
            kind.layout.rank = array.ndim
            kind.layout.dimensions[: array.ndim] = array.shape
            address, size = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes)
            handles.append(
                self._made(
                    "TensorBuffer", ctypes.byref(kind), address, size, None, by="TensorBufferFromHostMemory"
                )
            )
        return (ctypes.c_void_p * len(handles))(*handles)

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise UnsupportedError(f"LiteRtStatus {status}")


def _aligned(like: Array) -> Array:
    """Return zeros at an address that LiteRT takes."""
    if like.dtype not in _ELEMENTS or like.ndim > _MAX_RANK or not like.nbytes:
        raise UnsupportedError(f"a tensor of {like.dtype} with the shape {like.shape}")
    room = np.zeros(_ALIGNMENT + like.nbytes + _READ_BEYOND, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    return room[begin : begin + like.nbytes].view(like.dtype).reshape(like.shape)
