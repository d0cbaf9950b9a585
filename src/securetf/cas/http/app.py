"""The ASGI application: bytes in, one call of the service, bytes out.

Without a framework between: a volume's writer waits for a call with each fsync (docs/decisions/0017).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from securetf.cas.http.call import Call, Incoming, Signed
from securetf.cas.http.calls import CALLS
from securetf.cas.http.limits import RateLimit
from securetf.cas.http.openapi import document
from securetf.cas.http.routes import Routes
from securetf.cas.http.tpm_calls import TPM_CALLS
from securetf.cas.http.waiting import LoopWaits
from securetf.cas.service import AuditDraft, CasService, Connection
from securetf.cas.service.context import settled
from securetf.errors import (
    AppraisalError,
    CasRefusedError,
    CasStateError,
    ConflictError,
    EvidenceError,
    FencedError,
    LimitError,
    ManifestError,
    NotAuthorisedError,
    NotFoundError,
    SecuretfError,
    UnsealError,
    UsageError,
)
from securetf.keys.signature import HEADERS, parse
from securetf.wire import MAX_BODY_BYTES, Done, ErrorDocument, decode, encode
from securetf.wire.messages import Message

_log = logging.getLogger(__name__)
_JSON = b"application/json"
_OPENAPI = "/v1/openapi.json"
_BODY_DEADLINE_S = 10.0
EXPORTER = "securetf.exporter"  # ASGI extension: label to 32 bytes of the request's connection
_MAX_TARGET = 1024  # characters of path and query
_STATUS: tuple[tuple[type[SecuretfError], int], ...] = (
    (NotAuthorisedError, 403),
    (NotFoundError, 404),
    (ConflictError, 409),
    (FencedError, 409),
    (LimitError, 429),
    (ManifestError, 422),
    (EvidenceError, 403),
    (AppraisalError, 403),
    (CasRefusedError, 403),
    (UsageError, 400),
    (UnsealError, 400),
    (CasStateError, 503),
)

_SIGNATURE = {name.encode(): name for name in HEADERS}

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
_Answer = tuple[int, bytes]  # HTTP status, JSON text


class _GoneError(Exception):
    """The caller has gone before its request was whole."""


def application(
    service: CasService, workers: ThreadPoolExecutor
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return the application. workers: threads in which calls that verify or write are carried out."""
    limit, waits = RateLimit(), LoopWaits(workers)
    routes, text = Routes((*CALLS, *TPM_CALLS)), document()

    async def respond(scope: Scope, receive: Receive) -> _Answer:
        method, path = scope["method"], scope["raw_path"].decode("ascii")
        if (method, path) == ("GET", _OPENAPI):
            return 200, text
        call, parameters = routes.find(method, path)
        if call is None:
            return _no_such_call(routes.knows(path) or path == _OPENAPI)
        try:
            address = scope["client"][0] if scope["client"] else ""
            limit.take(address, service.context.clock.monotonic_s())
            body = await _body(scope, path, receive)
            incoming = _incoming(call, service, scope, path, parameters, body)
            return 200, encode(await _answer(call, incoming, waits))
        except SecuretfError as error:
            _log.info("refused", extra={"action": call.action, "code": error.code})
            return refusal(error)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            status, answer = await respond(scope, receive)
        except _GoneError:
            status, answer = 400, b""
        except Exception as error:  # noqa: BLE001 - a defect is answered, too
            _log.exception("defect", exc_info=error)
            status, answer = _defect()
        length = str(len(answer)).encode()
        headers = [(b"content-length", length), (b"content-type", _JSON)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    return app


async def _answer(call: Call, incoming: Incoming, waits: LoopWaits) -> Message:
    if call.steps is not None:
        return await call.steps(incoming, waits)
    if call.handler is None:
        raise AssertionError("the table has a handler or steps for each call")
    if call.inline:
        return call.handler(incoming)
    if call.begin is not None:
        try:
            begun = call.begin(incoming)
        except SecuretfError:
            pass  # the handler below refuses it again, and records that
        else:
            settled(await waits.done(begun))
            return Done() if call.done is None else call.done(incoming)
    return await waits.elsewhere(partial(call.handler, incoming))


def _incoming(
    call: Call, service: CasService, scope: Scope, path: str, parameters: Mapping[str, str], body: bytes
) -> Incoming:
    if call.request is None and body:
        raise UsageError(f"{call.method} {call.path} takes no body", "send none")
    text = scope["query_string"].decode("latin-1")
    query = dict(parse_qsl(text, keep_blank_values=True)) if text else {}
    unknown = set(query) - set(call.query)
    if unknown:
        raise UsageError(f"unknown query parameter {min(unknown)[:64]!r}", "leave it out")
    signed = None
    if call.signed is not Signed.NOBODY:
        target = f"{path}?{text}" if text else path
        signed = parse(method=call.method, target=target, body=body, headers=_signature_headers(scope))
    return Incoming(
        service=service,
        parameters=parameters,
        query=query,
        message=None if call.request is None else decode(body, call.request),
        signed=signed,
        draft=AuditDraft(action=call.action, session=_session(parameters)),
        connection=Connection(scope.get("extensions", {}).get(EXPORTER)),
    )


def _signature_headers(scope: Scope) -> dict[str, str]:
    """Return the headers that a signature needs, without those that came more than once."""
    found: dict[str, str] = {}
    repeated = set()
    for raw, value in scope["headers"]:
        name = _SIGNATURE.get(raw)
        if name is not None:
            if name in found:
                repeated.add(name)
            found[name] = value.decode("latin-1")
    return {name: value for name, value in found.items() if name not in repeated} if repeated else found


def _session(parameters: Mapping[str, str]) -> str:
    return f"{parameters['tenant']}/{parameters['name']}"[:129] if "tenant" in parameters else ""


async def _body(scope: Scope, path: str, receive: Receive) -> bytes:
    if len(path) + len(scope["query_string"]) > _MAX_TARGET:
        raise LimitError(f"the request target is longer than {_MAX_TARGET} characters", "shorten it")
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
        raise LimitError(f"the body is larger than {MAX_BODY_BYTES} bytes", "send a smaller message")
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(_BODY_DEADLINE_S):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > MAX_BODY_BYTES:
                    raise LimitError(
                        f"the body is larger than {MAX_BODY_BYTES} bytes", "send a smaller message"
                    )
    except TimeoutError:
        raise LimitError(
            f"the body did not arrive within {_BODY_DEADLINE_S:.0f} s", "send it at once"
        ) from None
    return bytes(body)


def refusal(error: SecuretfError) -> _Answer:
    """Return the HTTP status of a refusal and its error document."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return _document(error.code, error.problem, error.fix, status)


def _document(code: str, problem: str, fix: str, status: int) -> _Answer:
    return status, encode(ErrorDocument(code=code, problem=problem[:4096], fix=fix[:4096]))


def _no_such_call(known: bool) -> _Answer:
    status, what = (405, "Method Not Allowed") if known else (404, "Not Found")
    return _document(UsageError.code, f"no such call: {what}", "see docs/reference/cas-api.md", status)


def _defect() -> _Answer:
    return _document(
        SecuretfError.code,
        "the CAS met a defect of its own",
        "report it with the CAS's log of this time",
        500,
    )
