"""The OpenAPI 3.1 document, made from the table of calls and the message structs."""

import re
from typing import Any

import msgspec

from securetf import __version__
from securetf.cas.http.call import Call, Signed
from securetf.cas.http.calls import CALLS
from securetf.cas.http.tpm_calls import TPM_CALLS
from securetf.wire import ErrorDocument
from securetf.wire.messages import Message

_REFERENCE = "#/components/schemas/{name}"
_TEXT = {"type": "string"}


def document() -> bytes:
    """Return the document as JSON, keys in a fixed order."""
    kinds: list[type[Message]] = [ErrorDocument]
    for call in (*CALLS, *TPM_CALLS):
        kinds += [kind for kind in (call.request, call.response) if kind is not None and kind not in kinds]
    _, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    paths: dict[str, Any] = {}
    for call in (*CALLS, *TPM_CALLS):
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "securetf CAS",
                "version": __version__,
                "summary": "Attestation, keys, freshness",
            },
            "paths": paths,
            "components": {"schemas": components},
        },
        order="sorted",
    )


def _operation(call: Call) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": call.action,
        "summary": call.summary,
        "responses": {
            "200": {"description": "Done", "content": _json(call.response)},
            "default": {"description": "Refused", "content": _json(ErrorDocument)},
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT}
        for name in re.findall(r"{(\w+)}", call.path)
    ]
    parameters += [{"name": name, "in": "query", "required": False, "schema": _TEXT} for name in call.query]
    if call.signed is not Signed.NOBODY:
        operation["description"] = (
            f"Signed by: {call.signed}. RFC 9421, docs/formats/wire-v1.md, section Signatures."
        )
        parameters += [
            {"name": name, "in": "header", "required": True, "schema": _TEXT}
            for name in ("Content-Digest", "Securetf-Cas", "Signature-Input", "Signature")
        ]
    if parameters:
        operation["parameters"] = parameters
    if call.request is not None:
        operation["requestBody"] = {"required": True, "content": _json(call.request)}
    return operation


def _json(kind: type[Message]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REFERENCE.format(name=kind.__name__)}}}
