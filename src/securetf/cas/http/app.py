"""The Starlette application: bytes in, one call of the service, bytes out."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from securetf.cas.http.call import Call, Incoming, Signed
from securetf.cas.http.calls import CALLS
from securetf.cas.http.limits import RateLimit
from securetf.cas.http.openapi import document
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
_JSON = "application/json"
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

Endpoint = Callable[[Request], Awaitable[Response]]


def application(service: CasService, workers: ThreadPoolExecutor) -> Starlette:
    """Return the application. workers: threads in which calls that verify or write are carried out."""
    limit, waits = RateLimit(), LoopWaits(workers)
    text = document()

    async def openapi(_: Request) -> Response:
        return Response(text, media_type=_JSON)

    routes = [
        Route(call.path, _endpoint(call, service, limit, waits), methods=[call.method])
        for call in (*CALLS, *TPM_CALLS)
    ]
    routes.append(Route("/v1/openapi.json", openapi, methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _defect})
    app.router.redirect_slashes = False
    return app


def _endpoint(call: Call, service: CasService, limit: RateLimit, waits: LoopWaits) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        try:
            address = request.client.host if request.client else ""
            limit.take(address, service.context.clock.monotonic_s())
            body = await _body(request)
            incoming = _incoming(call, service, request, body)
            answer = await _answer(call, incoming, waits)
        except ClientDisconnect:
            return Response(status_code=400)
        except SecuretfError as error:
            _log.info("refused", extra={"action": call.action, "code": error.code})
            return refusal(error)
        return Response(encode(answer), media_type=_JSON)

    return endpoint


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


def _incoming(call: Call, service: CasService, request: Request, body: bytes) -> Incoming:
    if call.request is None and body:
        raise UsageError(f"{call.method} {call.path} takes no body", "send none")
    unknown = set(request.query_params) - set(call.query)
    if unknown:
        raise UsageError(f"unknown query parameter {min(unknown)[:64]!r}", "leave it out")
    signed = None
    if call.signed is not Signed.NOBODY:
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: values[0] for name in HEADERS if len(values := request.headers.getlist(name)) == 1}
        signed = parse(method=request.method, target=target, body=body, headers=headers)
    return Incoming(
        service=service,
        parameters=request.path_params,
        query=request.query_params,
        message=None if call.request is None else decode(body, call.request),
        signed=signed,
        draft=AuditDraft(action=call.action, session=_session(request)),
        connection=Connection(request.scope.get("extensions", {}).get(EXPORTER)),
    )


def _session(request: Request) -> str:
    parameters = request.path_params
    return f"{parameters['tenant']}/{parameters['name']}"[:129] if "tenant" in parameters else ""


async def _body(request: Request) -> bytes:
    if len(request.url.path) + len(request.url.query) > _MAX_TARGET:
        raise LimitError(f"the request target is longer than {_MAX_TARGET} characters", "shorten it")
    declared = request.headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
        raise LimitError(f"the body is larger than {MAX_BODY_BYTES} bytes", "send a smaller message")
    parts, size = [], 0
    try:
        async with asyncio.timeout(_BODY_DEADLINE_S):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise LimitError(
                        f"the body is larger than {MAX_BODY_BYTES} bytes", "send a smaller message"
                    )
                parts.append(part)
    except TimeoutError:
        raise LimitError(
            f"the body did not arrive within {_BODY_DEADLINE_S:.0f} s", "send it at once"
        ) from None
    return b"".join(parts)


def refusal(error: SecuretfError) -> Response:
    """Return the error document of a refusal with its HTTP status."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return _document(error.code, error.problem, error.fix, status)


def _document(code: str, problem: str, fix: str, status: int) -> Response:
    message = ErrorDocument(code=code, problem=problem[:4096], fix=fix[:4096])
    return Response(encode(message), status_code=status, media_type=_JSON)


async def _http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    problem = f"no such call: {error.detail}"
    return _document(UsageError.code, problem, "see docs/reference/cas-api.md", error.status_code)


async def _defect(_: Request, error: Exception) -> Response:
    _log.error("defect", exc_info=error)
    return _document(
        SecuretfError.code,
        "the CAS met a defect of its own",
        "report it with the CAS's log of this time",
        500,
    )
