"""The HTTP interfaces as an OpenAPI document, for clients that generate themselves and for tests that
generate requests.
"""

from typing import Any

from securetf import __version__

_TEXT = {"schema": {"type": "string"}}
_VALUE: dict[str, Any] = {}  # any JSON value: the model's metadata says which


def document() -> dict[str, Any]:
    """Return OpenAPI 3.1."""
    model, number = _path("model"), _path("number")
    of_version = "/v1/models/{model}/versions/{number}"
    paths: dict[str, Any] = {}
    for base, parameters in (("/v1/models/{model}", [model]), (of_version, [model, number])):
        paths[base] = _get("States of the versions", parameters)
        paths[f"{base}/metadata"] = _get("Signatures", parameters)
        paths[f"{base}:predict"] = _post("Predict, rows or columns", parameters, _PREDICT)
        paths[f"{base}:classify"] = _post("Classify examples", parameters, _EXAMPLES)
        paths[f"{base}:regress"] = _post("Regress examples", parameters, _EXAMPLES)
    for base, parameters in (
        ("/v2/models/{model}", [model]),
        ("/v2/models/{model}/versions/{number}", [model, number]),
    ):
        paths[base] = _get("Inputs and outputs", parameters)
        paths[f"{base}/ready"] = _get("Whether it answers", parameters)
        paths[f"{base}/infer"] = _post("Infer", parameters, _INFER)
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/metrics", "/monitoring/prometheus/metrics"):
        paths[path] = _get("State of the service", [])
    return {"openapi": "3.1.0", "info": {"title": "securetf serve", "version": __version__}, "paths": paths}


_PREDICT = {
    "type": "object",
    "properties": {"signature_name": {"type": "string"}, "instances": {"type": "array"}, "inputs": _VALUE},
}
_EXAMPLES = {
    "type": "object",
    "required": ["examples"],
    "properties": {
        "signature_name": {"type": "string"},
        "context": {"type": "object"},
        "examples": {"type": "array", "items": {"type": "object"}},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"type": "string"},
                    "parameters": {"type": "object"},
                    "data": {"type": "array"},
                },
            },
        },
        "outputs": {
            "type": "array",
            "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
        },
    },
}


def _path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, **_TEXT}


def _get(summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "get": {
            "summary": summary,
            "parameters": parameters,
            "responses": {"default": {"description": "JSON"}},
        }
    }


def _post(summary: str, parameters: list[dict[str, Any]], schema: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    answers = {"responses": {"default": {"description": "JSON"}}}
    return {"post": {"summary": summary, "parameters": parameters, "requestBody": body, **answers}}
