"""TensorFlow Serving's REST interface (www.tensorflow.org/tfx/serving/api_rest): the adaptation, nothing
else.
"""

import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from securetf.serving import examples
from securetf.serving.errors import Kind, Refusal, invalid
from securetf.serving.models import Version
from securetf.serving.rest.exchange import Exchange, answer, json_response, reading, refused
from securetf.serving.rest.json_tensors import dumps, from_array, loads, to_array
from securetf.serving.service import Service, Target
from securetf.serving.tensors import STRING, Array, Signature, TensorSpec

_PATH = re.compile(
    r"(?P<model>[^/:]+)(?:/versions/(?P<number>[0-9]{1,18})|/labels/(?P<label>[^/:]+))?"
    r"(?P<method>/metadata|:predict|:classify|:regress)?"
)


def target_of(path: str) -> tuple[Target, str]:
    """Return the model and the method that the part after /v1/models/ names.

    Raises:
        Refusal: it is not of this interface.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise Refusal(
            Kind.NOT_FOUND, "Malformed request: no such path", "docs/how-to/serve.md lists the paths"
        )
    number = int(match["number"]) if match["number"] else None
    return Target(model=match["model"], number=number, label=match["label"] or ""), match["method"] or ""


def read(service: Service, request: Request) -> Response:
    """Answer GET /v1/models/…: status or metadata."""
    try:
        target, method = target_of(request.path_params["path"])
        if method == "/metadata":
            with service.version(target) as version:
                return json_response(metadata(version))
        if method:
            raise Refusal(Kind.NOT_FOUND, f"{method[1:]} is a POST", "send a body")
        found = service.models.status(target.model, target.number, target.label)
    except Refusal as error:
        return refused(error)
    watched = service.watcher.problem
    return json_response(
        {
            "model_version_status": [
                {
                    "version": str(one.number),
                    "state": one.state.name,
                    "status": {
                        "error_code": "OK"
                        if not one.problem or one.state.name == "AVAILABLE"
                        else "FAILED_PRECONDITION",
                        "error_message": one.problem or (watched if one.state.name == "AVAILABLE" else ""),
                    },
                }
                for one in found
            ]
        }
    )


async def compute(service: Service, request: Request) -> Response:
    """Answer POST /v1/models/…:predict, :classify or :regress."""
    try:
        target, method = target_of(request.path_params["path"])
        handlers = {":predict": _predict, ":classify": _classify, ":regress": _regress}
        if method not in handlers:
            raise Refusal(
                Kind.NOT_FOUND, "Malformed request: no such method", ":predict, :classify or :regress"
            )
    except Refusal as error:
        return refused(error)

    async def handler(exchange: Exchange) -> bytes:
        with service.version(target) as version:
            exchange.label, exchange.version = version.model, version
            return await handlers[method](service, version, exchange)

    return await answer(service, request, "tfs-rest", method[1:], handler)


def metadata(version: Version) -> dict[str, Any]:
    """Return the metadata document of a version."""
    signatures = {
        name: {
            "inputs": {key: _tensor_info(spec) for key, spec in one.inputs.items()},
            "outputs": {key: _tensor_info(spec) for key, spec in one.outputs.items()},
            "method_name": one.method,
            "defaults": {},
        }
        for name, one in version.signatures.items()
    }
    return {
        "model_spec": {"name": version.model, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    sizes = [{"size": str(size), "name": ""} for size in spec.shape or ()]
    shape = {"dim": sizes, "unknown_rank": spec.shape is None}
    return {"dtype": spec.type.name, "tensor_shape": shape, "name": spec.tensor_name}


def _document(exchange: Exchange) -> dict[str, Any]:
    document = loads(exchange.body)
    if not isinstance(document, dict):
        invalid("the body is not a JSON object", 'send {"instances": […]} or {"inputs": …}')
    if not isinstance(document.get("signature_name", ""), str):
        invalid("signature_name is not a string", "leave it out for the default")
    return document


async def _predict(service: Service, version: Version, exchange: Exchange) -> bytes:
    document = _document(exchange)
    if ("instances" in document) == ("inputs" in document):
        invalid("the body needs either instances or inputs", "send rows as instances, or columns as inputs")
    name, signature = version.signature(document.get("signature_name", ""))
    if "inputs" in document:
        inputs = _columns(document["inputs"], signature)
        outputs = await service.infer(version, name, inputs, deadline=exchange.deadline)
        plain = {key: from_array(array, key) for key, array in outputs.items()}
        return dumps({"outputs": next(iter(plain.values())) if len(plain) == 1 else plain}, outputs)
    rows = document["instances"]
    if not isinstance(rows, list) or not rows:
        invalid("instances is not a list with at least one example", 'send {"instances": [example, …]}')
    outputs = await service.infer(version, name, _rows(rows, signature), deadline=exchange.deadline)
    return dumps({"predictions": _predictions(outputs, len(rows))}, outputs)


def _columns(value: Any, signature: Signature) -> dict[str, Array]:
    if len(signature.inputs) == 1 and not (
        isinstance(value, dict) and value.keys() == signature.inputs.keys()
    ):
        value = {next(iter(signature.inputs)): value}
    if not isinstance(value, dict) or value.keys() != signature.inputs.keys():
        invalid("inputs does not name the signature's inputs", f"it takes {sorted(signature.inputs)}")
    return {name: to_array(value[name], spec, name) for name, spec in signature.inputs.items()}


def _rows(rows: list[Any], signature: Signature) -> dict[str, Array]:
    named = isinstance(rows[0], dict) and rows[0].keys() != {"b64"}
    if not named:
        if len(signature.inputs) != 1:
            invalid(
                "instances are values, and the signature takes several inputs",
                "send objects with their names",
            )
        name, spec = next(iter(signature.inputs.items()))
        return {name: to_array(rows, spec, name)}
    for row in rows:
        if not isinstance(row, dict) or row.keys() != signature.inputs.keys():
            invalid(
                "an instance does not name the signature's inputs", f"each needs {sorted(signature.inputs)}"
            )
    return {
        name: to_array([row[name] for row in rows], spec, name) for name, spec in signature.inputs.items()
    }


def _predictions(outputs: Mapping[str, Array], rows: int) -> Any:
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != rows:
            invalid(
                f"Tensor name: {name} has inconsistent batch size: {list(array.shape)}, expected {rows}",
                "send columns (inputs) to this model",
            )
    plain = {name: from_array(array, name) for name, array in outputs.items()}
    if len(plain) == 1:
        return next(iter(plain.values()))
    return [{name: column[row] for name, column in plain.items()} for row in range(rows)]


async def _classify(service: Service, version: Version, exchange: Exchange) -> bytes:
    document = _document(exchange)
    results = await examples.classify(
        service, version, document.get("signature_name", ""), _examples(document), exchange.deadline
    )
    return dumps({"results": results}, {})


async def _regress(service: Service, version: Version, exchange: Exchange) -> bytes:
    document = _document(exchange)
    results = await examples.regress(
        service, version, document.get("signature_name", ""), _examples(document), exchange.deadline
    )
    return dumps({"results": results}, {})


def _examples(document: dict[str, Any]) -> list[dict[str, list[Any]]]:
    with reading("examples"):
        context = _features(document.get("context", {}))
        return [{**context, **_features(one)} for one in list(document["examples"])]


def _features(values: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        name: [_feature(one) for one in (value if isinstance(value, list) else [value])]
        for name, value in values.items()
    }


def _feature(value: Any) -> bytes | int | float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise ValueError
        return value
    return bytes(to_array(value, TensorSpec(dtype=STRING, shape=()), "examples").item())
