"""LiteRT: the engine for .tflite files, on XNNPACK. With `litert_c`, the only file that knows it."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from securetf.serving.engines import Read
from securetf.serving.engines.litert_c import Compiled, UnsupportedError
from securetf.serving.errors import Kind, ModelLoadError, Refusal
from securetf.serving.tensors import BY_DTYPE, DEFAULT_SIGNATURE, STRING, Array, Signature, TensorSpec


def load(model: Path, *, workers: int, threads: int, read: Read) -> Sequence["LitertEngine"]:
    """Return engines that share the model's bytes, which are read once: a file that changes later changes
    nothing.

    Raises:
        ModelLoadError: not a FlatBuffer of a model, an operator is missing, or a tensor type is not known.
    """
    content = read(model)
    refused = threading.Event()
    try:
        return [LitertEngine(content, threads, refused) for _ in range(workers)]
    except (ValueError, RuntimeError) as error:
        raise ModelLoadError(
            f"{model.name} is not a model that LiteRT can load: {str(error).splitlines()[0]}",
            "write the file anew with tf.lite.TFLiteConverter or `securetf convert`",
        ) from None


class LitertEngine:
    """One compiled model, or one interpreter. For one thread at a time; it gives up the GIL while it
    computes, and the compiled model while it packs weights, too.

    A model of one signature is compiled in the shapes that its file has. From the first request in others on,
    and for all other models, the interpreter computes: it takes any shape, and both give the same bits.
    A model without signatures gets one that takes the names of its tensors.
    """

    def __init__(self, content: bytes, threads: int, refused: threading.Event) -> None:
        """refused: set once LiteRT would not compile the model, for all of its engines."""
        self._content, self._threads, self._refused = content, threads, refused
        self._compiled: Compiled | None = None
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
        # What to compile, None if nothing: not, or not any more.
        self._own = _own_tensors(self._interpreter) if len(self._names) == 1 else None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What the model takes and gives."""
        return self._signatures

    def prepare(self) -> None:
        """Pack the weights and lay out the tensors, of an engine that has computed nothing yet.

        Raises:
            ModelLoadError: an operator does not take its tensors.
        """
        if self._compile():
            return
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
            if compiled := self._compile_for(inputs):
                return compiled.run(inputs)
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

    def _compile_for(self, inputs: Mapping[str, Array]) -> Compiled | None:
        if self._own and any(array.shape != self._own[0][name].shape for name, array in inputs.items()):
            self._own = self._compiled = None  # the interpreter packs weights of its own
        return self._compile()

    def _compile(self) -> Compiled | None:
        if self._own and not self._compiled and not self._refused.is_set():
            try:
                self._compiled = Compiled(self._content, self._threads, *self._own)
            except UnsupportedError:
                self._refused.set()
        return self._compiled

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


def _own_tensors(interpreter: Interpreter) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Return tensors like those of a model's one signature, in the shapes of the file, in the order of the
    graph; None if the signature is not for all of the main graph.
    """
    runner = interpreter.get_signature_runner()
    found = []
    for named, graph in (
        (runner.get_input_details(), interpreter.get_input_details()),
        (runner.get_output_details(), interpreter.get_output_details()),
    ):
        names = {details["index"]: name for name, details in named.items()}
        if len(names) != len(named) or sorted(names) != sorted(details["index"] for details in graph):
            return None
        found.append({names[one["index"]]: np.broadcast_to(one["dtype"](), one["shape"]) for one in graph})
    return found[0], found[1]


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
