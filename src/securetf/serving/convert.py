"""Conversion of Keras models and SavedModels to LiteRT, accepted only if the result answers as its source
does.

Besides `engines/tensorflow.py` the only file that knows TensorFlow.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from securetf.errors import UsageError
from securetf.serving import engines
from securetf.serving.engines import Engine
from securetf.serving.errors import ConversionError, ModelLoadError
from securetf.serving.tensors import DEFAULT_SIGNATURE, STRING, Array, Signature

FLOAT32, DYNAMIC_RANGE = "float32", "dynamic-range"
TOLERANCES = {FLOAT32: 1e-4, DYNAMIC_RANGE: 5e-2}  # of the largest absolute value of an output
_CHECK_ROWS = 8
_MAX_OUTPUT_BYTES = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """sha256: hex, of the file. checked: examples that were compared. difference: the largest between source
    and result, relative to the largest absolute value of the output.
    """

    sha256: str
    size_bytes: int
    checked: int
    difference: float


def convert(
    source: Path, target: Path, *, precision: str, inputs: Path | None, tolerance: float | None
) -> Converted:
    """Convert `source` (SavedModel directory or .keras) to the new file `target`, after comparing both on
    `inputs`.

    inputs: .npz with one array per input, or .npy for a model with one; first dimension is the examples.
    Without it, random numbers of a fixed seed: for weights, that is a check; for accuracy, give real
    examples.

    Raises:
        UsageError: `target` exists, or `inputs` are not the model's. ModelLoadError: `source` does not load.
        ConversionError: it cannot be converted, or the result differs by more than the tolerance.
    """
    if target.exists():
        raise UsageError(f"{target} exists", "name a new file, for example in a new version directory")
    (original,) = engines.load(source, workers=1, threads=os.cpu_count() or 1)
    name, signature = _default(original)
    given = _inputs(inputs, signature)
    content = _converted(source, precision)
    scratch = target.with_name(f".{target.name}.partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.write_bytes(content)
        checked = scratch.with_suffix(".tflite")
        scratch.rename(checked)
        scratch = checked
        difference = _difference(original, name, engines.load(checked, workers=1, threads=1)[0], given)
        limit = TOLERANCES[precision] if tolerance is None else tolerance
        if not difference <= limit:
            raise ConversionError(
                f"the converted model differs from its source by {difference:.3g}, allowed are {limit:.3g}",
                "convert with --precision float32, or allow it with --tolerance",
            )
        _publish(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    rows = len(next(iter(given.values())))
    return Converted(
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        checked=rows,
        difference=difference,
    )


def _publish(scratch: Path, target: Path) -> None:
    """Give the file its name once it is stored, so that nobody sees a part of it."""
    with scratch.open("rb") as stream:
        os.fsync(stream.fileno())
    scratch.rename(target)


def _default(engine: Engine) -> tuple[str, Signature]:
    signatures = engine.signatures
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))
    if any(spec.dtype == STRING or spec.shape is None for spec in signatures[name].inputs.values()):
        raise ConversionError(
            "the model takes strings or shapes of unknown rank", "serve the SavedModel as it is"
        )
    return name, signatures[name]


def _inputs(path: Path | None, signature: Signature) -> dict[str, Array]:
    if path is None:
        random = np.random.default_rng(0)
        return {
            name: _random(
                random, spec.dtype, tuple(_CHECK_ROWS if one < 0 else one for one in spec.shape or ())
            )
            for name, spec in signature.inputs.items()
        }
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        raise UsageError(
            f"{path} is not a .npy or .npz file of plain arrays", "write it with numpy.savez"
        ) from None
    arrays = {next(iter(signature.inputs)): loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    if arrays.keys() != signature.inputs.keys():
        raise UsageError(f"{path} has {sorted(arrays)}", f"the model takes {sorted(signature.inputs)}")
    return {name: array.astype(signature.inputs[name].dtype) for name, array in arrays.items()}


def _random(random: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return (
        random.random(shape).astype(dtype)
        if dtype.kind == "f"
        else random.integers(0, 2, shape).astype(dtype)
    )


def _converted(source: Path, precision: str) -> bytes:
    import tensorflow as tf  # noqa: PLC0415  (takes seconds: not for `--help`)

    try:
        if source.suffix == ".keras":
            import keras  # noqa: PLC0415

            model = keras.saving.load_model(source, compile=False, safe_mode=True)
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
        else:
            converter = tf.lite.TFLiteConverter.from_saved_model(str(source))
        if precision == DYNAMIC_RANGE:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content = bytes(converter.convert())
    except Exception as error:  # noqa: BLE001  (the converter raises anything)
        raise ConversionError(
            f"TensorFlow cannot convert {source.name}: {type(error).__name__}",
            "the model may use operators that LiteRT lacks: serve the SavedModel as it is",
        ) from None
    if len(content) > _MAX_OUTPUT_BYTES:
        raise ConversionError(
            "the converted model has more than 2 GiB", "convert with --precision dynamic-range"
        )
    return content


def _difference(original: Engine, name: str, converted: Engine, given: Mapping[str, Array]) -> float:
    """Return the largest relative difference; infinite if an output has not even the same shape or is not
    finite.
    """
    wanted = original.infer(name, given)
    new_name, signature = _default(converted)
    names = dict(zip(sorted(signature.inputs), sorted(given), strict=True))
    try:
        found = converted.infer(new_name, {new: given[old] for new, old in names.items()})
    except ModelLoadError:
        return float("inf")
    if len(found) != len(wanted):
        return float("inf")
    pairs = zip((wanted[one] for one in sorted(wanted)), (found[one] for one in sorted(found)), strict=True)
    return max(_relative(one, other) for one, other in pairs)


def _relative(wanted: Array, found: Array) -> float:
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    largest = float(np.abs(wanted).max()) or 1.0
    return float(np.abs(wanted.astype(np.float64) - found).max()) / largest
