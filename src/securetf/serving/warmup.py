"""Warm-up: each engine answers before anybody waits for it.

The requests of `assets.extra/tf_serving_warmup_requests` (TFRecords of PredictionLog, as TensorFlow Serving
reads them), else zeros of the default signature's shape. A model whose inputs are strings is only warmed by
such a file.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from securetf.serving.engines import Engine
from securetf.serving.errors import ModelLoadError, Refusal
from securetf.serving.tensors import DEFAULT_SIGNATURE, STRING, Array, Signature, check_inputs

_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
_MAX_RECORDS, _MAX_RECORD_BYTES = 1000, 64 << 20


def recorded(directory: Path) -> bool:
    """Whether the version says itself with which requests it is warmed up."""
    return (directory / _FILE).is_file()


def warm_up(directory: Path, engines: Sequence[Engine]) -> None:
    """Run the warm-up on each engine, on all at once: each packs weights of its own.

    Raises:
        ModelLoadError: the model does not answer, or the file is not of the expected form.
    """
    signatures = engines[0].signatures
    distinct = list({id(one): one for one in engines}.values())
    try:
        with ThreadPoolExecutor(len(distinct), "warm-up") as threads:
            for name, inputs in _requests(directory, signatures):
                check_inputs(signatures[name], inputs, allow_non_finite=True)
                for answered in [threads.submit(one.infer, name, inputs) for one in distinct]:
                    answered.result()
    except Refusal as error:
        raise ModelLoadError(
            f"fails its warm-up: {error.problem}", "try the model with the engine alone"
        ) from None


def _requests(directory: Path, signatures: Mapping[str, Signature]) -> Iterator[tuple[str, dict[str, Array]]]:
    if recorded(directory):
        yield from _recorded(directory / _FILE, signatures)
        return
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else next(iter(signatures))
    specs = signatures[name].inputs
    if any(spec.dtype == STRING or spec.shape is None for spec in specs.values()):
        return
    shapes = {key: [1 if size < 0 else size for size in spec.shape or ()] for key, spec in specs.items()}
    yield name, {key: np.zeros(shapes[key], spec.dtype) for key, spec in specs.items()}


def _recorded(file: Path, signatures: Mapping[str, Signature]) -> Iterator[tuple[str, dict[str, Array]]]:
    from google.protobuf.message import DecodeError  # noqa: PLC0415  (only for such a file)

    from securetf.serving.grpc_api.tensor_proto import to_array  # noqa: PLC0415
    from securetf.serving.protocols import message  # noqa: PLC0415

    for record in _records(file):
        try:
            log = message("tfs.PredictionLog").FromString(record)
        except DecodeError:
            raise _malformed() from None
        if log.WhichOneof("log_type") != "predict_log":
            continue  # classify and regress compute with the same graph
        request = log.predict_log.request
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in signatures:
            raise ModelLoadError(f"its warm-up names the signature {name!r}", f"it has {sorted(signatures)}")
        yield name, {key: to_array(tensor, key) for key, tensor in request.inputs.items()}


def _records(file: Path) -> Iterator[bytes]:
    """Yield the records: length (8 bytes, little endian), CRC, data, CRC. The CRCs are not read: the volume's
    own authentication covers them.
    """
    with file.open("rb") as stream:
        for _ in range(_MAX_RECORDS):
            header = stream.read(12)
            if not header:
                return
            if len(header) < 12 or (size := struct.unpack_from("<Q", header)[0]) > _MAX_RECORD_BYTES:
                raise _malformed()
            record = stream.read(size + 4)
            if len(record) < size + 4:
                raise _malformed()
            yield record[:size]


def _malformed() -> ModelLoadError:
    return ModelLoadError(
        f"{_FILE} is not a file of TFRecords of PredictionLog",
        "write it as TensorFlow Serving's documents say",
    )
