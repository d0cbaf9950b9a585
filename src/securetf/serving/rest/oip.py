"""The Open Inference Protocol's REST interface with the binary tensor extension
(kserve/open-inference-protocol, "HTTP/REST"; Triton's extension_binary_data).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from securetf import __version__
from securetf.serving.errors import Refusal, invalid
from securetf.serving.models import Version
from securetf.serving.rest.exchange import Exchange, answer, json_response, reading, refused
from securetf.serving.rest.json_tensors import dumps, from_array, loads, to_array
from securetf.serving.service import Service, Target
from securetf.serving.tensors import (
    BY_OIP,
    STRING,
    Array,
    Signature,
    TensorSpec,
    from_bytes,
    shaped,
    strings_from_bytes,
    strings_to_bytes,
)

BINARY_HEADER = "inference-header-content-length"
EXTENSIONS = ["binary_tensor_data"]
_MAX_DIMENSIONS = 32


def server_metadata() -> dict[str, Any]:
    """Return what GET /v2 answers."""
    return {"name": "securetf", "version": __version__, "extensions": EXTENSIONS}


def target_of(model: str, number: str) -> Target:
    """Return the model that name and version say; a version that is no number is one that is not served."""
    if not number:
        return Target(model=model)
    return Target(model=model, number=int(number) if number.isdecimal() and len(number) < 19 else -1)


def model(service: Service, request: Request) -> Response:
    """Answer GET /v2/models/M[/versions/V] and …/ready."""
    target = target_of(request.path_params["model"], request.path_params.get("number", ""))
    try:
        with service.version(target) as version:
            if request.url.path.endswith("/ready"):
                return json_response({"name": version.model, "ready": service.ready()})
            return json_response(metadata(service, version))
    except Refusal as error:
        return refused(error)


def metadata(service: Service, version: Version) -> dict[str, Any]:
    """Return the metadata document of a version: its default signature."""
    _, signature = version.signature("")
    return {
        "name": version.model,
        "versions": [str(number) for number in sorted(service.models.served(version.model))],
        "platform": version.platform,
        "inputs": [tensor_metadata(name, spec) for name, spec in signature.inputs.items()],
        "outputs": [tensor_metadata(name, spec) for name, spec in signature.outputs.items()],
    }


def tensor_metadata(name: str, spec: TensorSpec) -> dict[str, Any]:
    """Return the description of one input or output."""
    shape = [-1] if spec.shape is None else list(spec.shape)
    return {"name": name, "datatype": spec.type.oip, "shape": shape}


async def infer(service: Service, request: Request) -> Response:
    """Answer POST /v2/models/M[/versions/V]/infer."""
    target = target_of(request.path_params["model"], request.path_params.get("number", ""))

    async def handler(exchange: Exchange) -> bytes:
        with service.version(target) as version:
            exchange.label, exchange.version = version.model, version
            return await _infer(service, version, exchange)

    return await answer(service, request, "oip-rest", "infer", handler)


async def _infer(service: Service, version: Version, exchange: Exchange) -> bytes:
    head, raw = _split(exchange)
    with reading("the request"):
        document = loads(head)
        parameters = dict(document.get("parameters", {}))
        wanted = [(str(one["name"]), dict(one.get("parameters", {}))) for one in document.get("outputs", ())]
        name, signature = version.signature(str(parameters.get("signature_name", "")))
        inputs = _inputs(document["inputs"], raw)
        identifier = document.get("id")
        if identifier is not None and not isinstance(identifier, str):
            raise TypeError
    check_outputs([one for one, _ in wanted], signature)
    outputs = await service.infer(version, name, inputs, deadline=exchange.deadline)
    everything_binary = parameters.get("binary_data_output") is True
    answer_: dict[str, Any] = {"model_name": version.model, "model_version": str(version.number)}
    if identifier is not None:
        answer_["id"] = identifier
    chosen = wanted or [(one, {}) for one in outputs]
    binary = {one for one, flags in chosen if flags.get("binary_data", everything_binary) is True}
    arrays = {one: outputs[one] for one, _ in chosen}
    return _written(exchange, answer_, arrays, binary)


def check_outputs(names: list[str], signature: Signature) -> None:
    """Refuse a wish for outputs that the model does not have.

    Raises:
        Refusal: the name of one is not in the signature, or stands twice.
    """
    if not set(names) <= signature.outputs.keys() or len(set(names)) != len(names):
        invalid(f"outputs are {names}", f"the model has {sorted(signature.outputs)}")


def _split(exchange: Exchange) -> tuple[memoryview, memoryview]:
    """Return the JSON part and the binary part."""
    body = memoryview(exchange.body)
    length = exchange.request.headers.get(BINARY_HEADER)
    if length is None:
        return body, body[:0]
    if not length.isdecimal() or int(length) > len(body):
        invalid(
            f"{BINARY_HEADER} is not a part of the body's length", "send the length of the JSON part in bytes"
        )
    return body[: int(length)], body[int(length) :]


def _inputs(given: Any, raw: memoryview) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for one in given:
        name = str(one["name"])
        kind = BY_OIP.get(one["datatype"])
        shape = checked_shape(one["shape"], name)
        if kind is None:
            invalid(f"tensor {name!r} has an unknown datatype", f"known are {sorted(BY_OIP)}")
        if name in found:
            invalid(f"tensor {name!r} stands twice", "send each input once")
        size = one.get("parameters", {}).get("binary_data_size")
        if size is not None:
            if not isinstance(size, int) or not 0 <= size <= len(raw):
                invalid(
                    f"tensor {name!r} has a binary_data_size beyond the body",
                    "send its bytes after the JSON part",
                )
            part, raw = raw[:size], raw[size:]
            found[name] = from_raw(part, kind.dtype, shape, name)
        else:
            spec = TensorSpec(dtype=kind.dtype, shape=shape)
            found[name] = shaped(to_array(one["data"], spec, name), shape, name)
    if len(raw):
        invalid(f"{len(raw)} bytes follow the last tensor", "send the bytes that binary_data_size says")
    return found


def checked_shape(shape: Any, name: str) -> tuple[int, ...]:
    """Return a shape that a client sent.

    Raises:
        Refusal: not a list of at most 32 sizes.
    """
    sizes = tuple(shape)
    whole = all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 1 << 40 for size in sizes
    )
    if not whole or len(sizes) > _MAX_DIMENSIONS or math.prod(sizes) >= 1 << 40:
        invalid(f"tensor {name!r} has no definite shape", "send the size of each dimension")
    return sizes


def from_raw(data: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], name: str) -> Array:
    """Return a tensor in the binary form, without a copy unless it holds strings.

    Raises:
        Refusal: bytes and shape do not agree.
    """
    return strings_from_bytes(data, shape, name) if dtype == STRING else from_bytes(data, dtype, shape, name)


def to_raw(array: Array) -> bytes:
    """Return a tensor in the binary form."""
    return strings_to_bytes(array) if array.dtype == STRING else np.ascontiguousarray(array).tobytes()


def _written(
    exchange: Exchange, head: dict[str, Any], arrays: Mapping[str, Array], binary: set[str]
) -> bytes:
    raw: list[bytes] = []
    head["outputs"] = outputs = []
    plain: dict[str, Array] = {}
    for name, array in arrays.items():
        described: dict[str, Any] = {
            "name": name,
            "datatype": TensorSpec(dtype=array.dtype, shape=()).type.oip,
            "shape": list(array.shape),
        }
        if name in binary:
            raw.append(to_raw(array))
            described["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            plain[name] = array
            described["data"] = from_array(array.reshape(-1), name)
        outputs.append(described)
    written = dumps(head, plain)
    if binary:
        exchange.headers[BINARY_HEADER] = str(len(written))
        exchange.headers["content-type"] = "application/octet-stream"
    return b"".join([written, *raw])
