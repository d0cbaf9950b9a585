"""TensorFlow: the engine for SavedModels and .keras files. The only file that knows it, besides `convert`.

Three ways to load a SavedModel, the next where the one before fails: TensorFlow 2's loader; the same with
Keras 2 (`tf_keras`) registered, which models saved by it need; TensorFlow 1's loader in a session, which
reads whatever TensorFlow Serving reads.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from securetf.serving.engines import Engine, Read
from securetf.serving.errors import Kind, ModelLoadError, Refusal
from securetf.serving.tensors import (
    BY_NUMBER,
    DEFAULT_SIGNATURE,
    PREDICT,
    STRING,
    Array,
    Signature,
    TensorSpec,
)

_NOT_SERVED = "__saved_model_init_op"
Run = Callable[[Mapping[str, Array]], Mapping[str, Any]]


def load(model: Path, *, workers: int, threads: int, read: Read) -> Sequence[Engine]:  # noqa: ARG001
    """Return one engine `workers` times: TensorFlow computes for many callers at once, and reads by itself.

    Raises:
        ModelLoadError: not a model that TensorFlow loads in any of the three ways.
    """
    tensorflow = _tensorflow(workers, threads)
    engine = _keras(tensorflow, model) if model.suffix == ".keras" else _saved_model(tensorflow, model)
    return [engine] * workers


def _tensorflow(workers: int, threads: int) -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import tensorflow as tf  # noqa: PLC0415  (takes seconds: not before a model needs it)

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads * workers)
        tf.config.threading.set_inter_op_parallelism_threads(workers)
    except RuntimeError:
        pass  # set when the first model was loaded; one process has one set of threads
    return tf


class TensorflowEngine:
    """Signatures, and for each what computes it. For any number of threads."""

    def __init__(self, signatures: Mapping[str, Signature], runs: Mapping[str, Run]) -> None:
        if not signatures:
            raise ModelLoadError("the model has no signature to serve", "export it with model.export(…)")
        self._signatures, self._runs = signatures, runs

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What the model takes and gives."""
        return self._signatures

    def prepare(self) -> None:
        """Nothing is left to be done: TensorFlow did it when it loaded the model."""

    def infer(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs.

        Raises:
            Refusal: the graph cannot compute on these inputs.
        """
        import tensorflow as tf  # noqa: PLC0415  (loaded already)

        try:
            outputs = self._runs[signature](inputs)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            kind = Kind.INVALID if isinstance(error, tf.errors.InvalidArgumentError) else Kind.ENGINE
            raise Refusal(
                kind,
                f"the model cannot compute on these inputs: {type(error).__name__}",
                "look at shapes and values: the graph refuses what its metadata allow",
            ) from None
        return {name: _array(value) for name, value in outputs.items()}


def _array(value: Any) -> Array:
    array = np.asarray(value if isinstance(value, np.ndarray | bytes | np.generic) else value.numpy())
    return array.astype(STRING) if array.dtype.kind == "S" else array


def _keras(tf: Any, model: Path) -> TensorflowEngine:
    import keras  # noqa: PLC0415  (with TensorFlow)

    try:
        loaded = keras.saving.load_model(model, compile=False, safe_mode=True)
    except Exception as error:  # noqa: BLE001  (Keras raises anything)
        raise _unloadable(model, error) from None
    inputs = {tensor.name.split(":")[0]: _keras_spec(tensor) for tensor in loaded.inputs}
    outputs = {f"output_{number}": _keras_spec(tensor) for number, tensor in enumerate(loaded.outputs)}
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in loaded.inputs]
    given_as = (lambda tensors: tensors[0]) if len(specs) == 1 else list
    graph = tf.function(
        lambda *tensors: tf.nest.flatten(loaded(given_as(tensors), training=False)), input_signature=specs
    )
    signature = Signature(inputs=inputs, outputs=outputs)

    def run(given: Mapping[str, Array]) -> Mapping[str, Any]:
        return dict(zip(outputs, graph(*(tf.constant(given[name]) for name in inputs)), strict=True))

    return TensorflowEngine({DEFAULT_SIGNATURE: signature}, {DEFAULT_SIGNATURE: run})


def _keras_spec(tensor: Any) -> TensorSpec:
    shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
    return TensorSpec(dtype=np.dtype(tensor.dtype), shape=shape, tensor_name=tensor.name)


def _saved_model(tf: Any, directory: Path) -> TensorflowEngine:
    try:
        meta_graph = _serve_graph(directory)
        signatures = {
            name: _signature(one) for name, one in meta_graph.signature_def.items() if name != _NOT_SERVED
        }
    except Exception as error:  # noqa: BLE001  (a malformed file raises anything)
        raise _unloadable(directory, error) from None
    failed: list[Exception] = []
    for way in (_second, _second_with_keras2, _first):
        try:
            return TensorflowEngine(signatures, way(tf, directory, meta_graph, signatures))
        except Exception as error:  # noqa: BLE001  (the next way may do)
            failed.append(error)
    raise _unloadable(directory, failed[-1])


def _serve_graph(directory: Path) -> Any:
    from tensorflow.python.saved_model.loader_impl import parse_saved_model  # noqa: PLC0415

    graphs = parse_saved_model(str(directory)).meta_graphs
    return next(graph for graph in graphs if "serve" in graph.meta_info_def.tags)


def _signature(described: Any) -> Signature:
    return Signature(
        inputs={name: _spec(info) for name, info in sorted(described.inputs.items())},
        outputs={name: _spec(info) for name, info in sorted(described.outputs.items())},
        method=described.method_name or PREDICT,
    )


def _spec(info: Any) -> TensorSpec:
    if info.dtype not in BY_NUMBER:
        raise ValueError(f"type number {info.dtype} is not served")
    shape = None if info.tensor_shape.unknown_rank else tuple(one.size for one in info.tensor_shape.dim)
    return TensorSpec(dtype=BY_NUMBER[info.dtype].dtype, shape=shape, tensor_name=info.name)


def _second(tf: Any, directory: Path, _: Any, signatures: Mapping[str, Signature]) -> dict[str, Run]:
    loaded = tf.saved_model.load(str(directory), tags=["serve"])

    def runner(function: Any) -> Run:
        def run(inputs: Mapping[str, Array]) -> Mapping[str, Any]:
            result: Mapping[str, Any] = function(**{name: tf.constant(one) for name, one in inputs.items()})
            return result

        run.model = loaded  # type: ignore[attr-defined]  # the variables live as long as it does
        return run

    return {name: runner(loaded.signatures[name]) for name in signatures}


def _second_with_keras2(
    tf: Any, directory: Path, graph: Any, signatures: Mapping[str, Signature]
) -> dict[str, Run]:
    import tf_keras  # noqa: F401, PLC0415  (registers what Keras 2 saved)

    return _second(tf, directory, graph, signatures)


def _first(tf: Any, directory: Path, meta_graph: Any, signatures: Mapping[str, Signature]) -> dict[str, Run]:
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph)
    with graph.as_default():
        tf.compat.v1.saved_model.load(session, ["serve"], str(directory))

    def runner(described: Any) -> Run:
        feeds = {name: info.name for name, info in described.inputs.items()}
        fetches = {name: info.name for name, info in described.outputs.items()}

        def run(inputs: Mapping[str, Array]) -> Mapping[str, Any]:
            result: Mapping[str, Any] = session.run(
                fetches, {feeds[name]: one for name, one in inputs.items()}
            )
            return result

        return run

    return {name: runner(meta_graph.signature_def[name]) for name in signatures}


def _unloadable(model: Path, error: Exception) -> ModelLoadError:
    return ModelLoadError(
        f"{model.name} is not a model that TensorFlow can load: {type(error).__name__}",
        "export it anew with this TensorFlow, or look at it with saved_model_cli",
    )
