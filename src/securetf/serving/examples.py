"""Classification and regression over tf.Examples, for both interfaces of TensorFlow Serving.

A signature with one input of strings gets serialized Examples, as TensorFlow Serving does it. Any other
(every LiteRT model) gets each feature as the input of its name.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from securetf.serving.errors import Kind, Refusal, invalid
from securetf.serving.models import Version
from securetf.serving.service import Service
from securetf.serving.tensors import CLASSIFY, PREDICT, REGRESS, STRING, Array, Signature, strings

Features = Mapping[str, Sequence[Any]]  # name → bytes, floats or ints
_MAX_EXAMPLES = 100_000


async def classify(
    service: Service, version: Version, signature: str, examples: Sequence[Features], deadline: float
) -> list[list[tuple[str, float]]]:
    """Return for each example its classes as (label, score).

    Raises:
        Refusal: as `Service.infer`, or the signature does not classify.
    """
    outputs = await _run(service, version, signature, examples, deadline, CLASSIFY)
    scores = outputs.get("scores")
    labels = outputs.get("classes")
    if scores is None and labels is None:
        scores = _only_numbers(outputs)
    first = scores if scores is not None else labels
    if first is None or first.ndim != 2 or len(first) != len(examples):
        invalid(f"the outputs {sorted(outputs)} are no classification", "use Predict with this model")
    return [
        [
            (
                "" if labels is None else bytes(labels[row, column]).decode("utf-8", "replace"),
                0.0 if scores is None else float(scores[row, column]),
            )
            for column in range(first.shape[1])
        ]
        for row in range(len(examples))
    ]


async def regress(
    service: Service, version: Version, signature: str, examples: Sequence[Features], deadline: float
) -> list[float]:
    """Return for each example one number.

    Raises:
        Refusal: as `Service.infer`, or the signature gives not one number.
    """
    outputs = await _run(service, version, signature, examples, deadline, REGRESS)
    values = outputs["outputs"] if "outputs" in outputs else _only_numbers(outputs)
    if values is None or values.size != len(examples):
        invalid(f"the outputs {sorted(outputs)} are no regression", "use Predict with this model")
    return [float(one) for one in values.ravel()]


async def _run(
    service: Service,
    version: Version,
    signature: str,
    examples: Sequence[Features],
    deadline: float,
    method: str,
) -> dict[str, Array]:
    name, described = version.signature(signature)
    if not 0 < len(examples) <= _MAX_EXAMPLES:
        invalid(f"there are {len(examples)} examples", f"send 1 to {_MAX_EXAMPLES}")
    serialized = len(described.inputs) == 1 and next(iter(described.inputs.values())).dtype == STRING
    if described.method != method and (serialized or described.method != PREDICT):
        invalid(
            f"Expected signature method_name to be {method}. Was: {described.method}",
            "name another signature",
        )
    if time.monotonic() >= deadline:
        raise Refusal(Kind.LATE, "the deadline passed", "allow more time")
    inputs = _serialized(described, examples) if serialized else _by_name(described, examples)
    return await service.infer(version, name, inputs, deadline=deadline)


def _serialized(signature: Signature, examples: Sequence[Features]) -> dict[str, Array]:
    (name,) = signature.inputs
    return {name: strings([to_example(one).SerializeToString() for one in examples])}


def _by_name(signature: Signature, examples: Sequence[Features]) -> dict[str, Array]:
    inputs = {}
    for name, spec in signature.inputs.items():
        if any(name not in one for one in examples):
            invalid(f"an example has no feature {name!r}", f"each needs {sorted(signature.inputs)}")
        rows = [one[name] for one in examples]
        if (
            spec.dtype == STRING
            or spec.shape is None
            or any(isinstance(value, bytes) for row in rows for value in row)
        ):
            invalid(f"the feature {name!r} cannot be made the model's input", "use Predict with this model")
        shape = (len(rows), *spec.shape[1:])
        try:
            inputs[name] = np.array(rows).astype(spec.dtype).reshape(shape)
        except (ValueError, OverflowError):
            invalid(
                f"the feature {name!r} has another number of values than {list(spec.shape[1:])}",
                "send as many",
            )
    return inputs


def _only_numbers(outputs: Mapping[str, Array]) -> Array | None:
    numbers = [one for one in outputs.values() if one.dtype.kind in "fiu"]
    return numbers[0] if len(numbers) == 1 else None


def to_example(features: Features) -> Any:
    """Return the tf.Example of features: bytes, ints or floats each in their list."""
    from securetf.serving.protocols import message  # noqa: PLC0415  (most requests over HTTP need no protobuf)

    example = message("tfs.Example")()
    for name, values in features.items():
        feature = example.features.feature[name]
        if values and isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif all(isinstance(one, int) for one in values):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example


def from_example(example: Any, context: Any = None) -> dict[str, list[Any]]:
    """Return the features of a tf.Example; those of the context where the example has none of the name."""
    found: dict[str, list[Any]] = {}
    for one in (context, example):
        for name, feature in one.features.feature.items() if one is not None else ():
            kind = feature.WhichOneof("kind")
            found[name] = list(getattr(feature, kind).value) if kind else []
    return found
