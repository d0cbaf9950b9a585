"""LiteRT: the engine for .tflite files, on XNNPACK. The only file that knows it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from securetf.serving.engines import Read
from securetf.serving.errors import Kind, ModelLoadError, Refusal
from securetf.serving.tensors import BY_DTYPE, DEFAULT_SIGNATURE, STRING, Array, Signature, TensorSpec


def load(model: Path, *, workers: int, threads: int, read: Read) -> Sequence["LitertEngine"]:
    """Return engines that share the model's bytes, which are read once: a file that changes later changes
    nothing.

    Raises:
        ModelLoadError: not a FlatBuffer of a model, an operator is missing, or a tensor type is not known.
    """
    content = read(model)
    try:
        return [LitertEngine(content, threads) for _ in range(workers)]
    except (ValueError, RuntimeError) as error:
        raise ModelLoadError(
            f"{model.name} is not a model that LiteRT can load: {str(error).splitlines()[0]}",
            "write the file anew with tf.lite.TFLiteConverter or `securetf convert`",
        ) from None


class LitertEngine:
    """One interpreter. For one thread at a time; it gives up the GIL while it computes.

    A model without signatures gets one that takes the names of its tensors.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        self._names = list(self._interpreter.get_signature_list() or {})
        self._runners: dict[str, Any] = {}  # `prepare` is refused while there are any
        self._signatures = {
            name: _signature(self._interpreter.get_signature_runner(name)) for name in self._names
        }
        if not self._names:
            self._inputs = {_plain(one): one for one in self._interpreter.get_input_details()}
            self._outputs = {_plain(one): one for one in self._interpreter.get_output_details()}
            self._signatures = {DEFAULT_SIGNATURE: _described(self._inputs, self._outputs)}

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What the model takes and gives."""
        return self._signatures

    def prepare(self) -> None:
        """Pack the weights and lay out the tensors, of an engine that has computed nothing yet.

        Raises:
            ModelLoadError: an operator does not take its tensors.
        """
        try:
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ModelLoadError(
                f"LiteRT cannot prepare the model: {str(error).splitlines()[0]}",
                "write the file anew with tf.lite.TFLiteConverter or `securetf convert`",
            ) from None

    def infer(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs, which are the caller's own.

        Raises:
            Refusal: an operator cannot compute on these inputs.
        """
        try:
            if self._names:
                if signature not in self._runners:
                    self._runners[signature] = self._interpreter.get_signature_runner(signature)
                # It resizes the inputs and allocates only if a shape differs from that of the call before.
                found: dict[str, Array] = self._runners[signature](**inputs)
                return {name: _bytes_only(array) for name, array in found.items()}
            return self._infer_unnamed(inputs)
        except (ValueError, RuntimeError) as error:
            raise Refusal(
                Kind.ENGINE,
                f"the model cannot compute on these inputs: {type(error).__name__} in LiteRT",
                "look at the shapes: the model may accept fewer than its metadata says",
            ) from None

    def _infer_unnamed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        changed = False
        for name, array in inputs.items():
            details = self._inputs[name]
            if array.shape != tuple(details["shape"]):
                self._interpreter.resize_tensor_input(details["index"], array.shape)
                details["shape"] = np.array(array.shape)
                changed = True
        if changed or not self._allocated:
            self._interpreter.allocate_tensors()
            self._allocated = True
        for name, array in inputs.items():
            self._interpreter.set_tensor(self._inputs[name]["index"], array)
        self._interpreter.invoke()
        return {
            name: _bytes_only(self._interpreter.get_tensor(details["index"]))
            for name, details in self._outputs.items()
        }

    _allocated = False


def _signature(runner: Any) -> Signature:
    return _described(runner.get_input_details(), runner.get_output_details())


def _described(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Signature:
    return Signature(
        inputs={name: _spec(details) for name, details in inputs.items()},
        outputs={name: _spec(details) for name, details in outputs.items()},
    )


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    given = np.dtype(details["dtype"])
    dtype = STRING if given.kind == "S" else given
    if dtype not in BY_DTYPE:
        raise ValueError(f"tensor {details['name']} has a type that is not served: {given}")
    shape = details.get("shape_signature")
    shape = details["shape"] if shape is None or len(shape) == 0 else shape
    return TensorSpec(dtype=dtype, shape=tuple(int(size) for size in shape), tensor_name=details["name"])


def _plain(details: Mapping[str, Any]) -> str:
    return str(details["name"]).removesuffix(":0")


def _bytes_only(array: Array) -> Array:
    return array.astype(STRING) if array.dtype.kind == "S" else array
