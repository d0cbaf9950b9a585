"""One HTTP exchange: the body within its limits of size and time, the answer or the error in the form clients
know.
"""

import asyncio
import gzip
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from securetf.errors import SecuretfError
from securetf.serving import receipts
from securetf.serving.errors import Kind, Refusal, invalid
from securetf.serving.models import Version
from securetf.serving.service import Service

WHEN_LOST = "securetf.when_lost"  # in the scope of a request: what is called when its connection is lost
_TIMEOUT_HEADER = "x-request-timeout"
_GIVEN_UP = 499
_LINGER_S = 1.0
_GZIP_FROM = 1024  # bytes; below, it costs more than it saves
_LARGEST_TIMEOUT_S = 86_400.0


@dataclass(slots=True)
class Exchange:
    """What a handler of a POST gets. body: after content-encoding is removed. deadline: on the monotonic
    clock.
    """

    request: Request
    body: bytes
    deadline: float
    receipt: bool
    label: str = ""  # model, for the count
    version: Version | None = None  # whose answer it is, for the receipt
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Exchange], Awaitable[bytes]]


async def answer(service: Service, request: Request, api: str, method: str, handler: Handler) -> Response:
    """Read the request, let the handler compute the body of the answer, and count the outcome."""
    started = time.monotonic()
    model, status = "", _GIVEN_UP
    lost, when_lost = _Lost(), request.scope.get(WHEN_LOST, [])
    when_lost.append(lost)
    try:
        with ExitStack() as held:
            exchange = await _read(service, request, started, held)
            try:
                body = await handler(exchange)
            finally:
                model = exchange.label
            if exchange.receipt and exchange.version:
                exchange.headers[receipts.HEADER] = service.receipt(exchange.version, exchange.body, body)
        response = _response(request, body, exchange.headers)
        status = response.status_code
        return response
    except (ClientDisconnect, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and not lost.happened:
            raise
        return Response(status_code=_GIVEN_UP)  # nobody reads it
    except SecuretfError as error:
        response = refused(error)
        status = response.status_code
        return response
    finally:
        when_lost.remove(lost)
        service.count(api, method, model, str(status))
        service.metrics.observe(
            "securetf_serving_request_seconds",
            "From the first byte of a request's body to its answer.",
            (("api", api), ("method", method)),
            time.monotonic() - started,
        )


class _Lost:
    """Ends the work for a client whose connection is lost, unless an engine has begun with it."""

    __slots__ = ("_task", "happened")

    def __init__(self) -> None:
        self._task, self.happened = asyncio.current_task(), False

    def __call__(self) -> None:
        self.happened = True
        if self._task:
            self._task.cancel()


def refused(error: SecuretfError) -> Response:
    """Return the error as both interfaces have it: `{"error": text}`."""
    kind = error.kind if isinstance(error, Refusal) else Kind.ENGINE
    headers = {}
    if isinstance(error, Refusal) and error.retry_after_s:
        headers["retry-after"] = str(error.retry_after_s)
    if kind in (Kind.TOO_LARGE, Kind.LATE_BODY):
        headers["connection"] = "close"  # the rest of the body is not read
    return Response(orjson.dumps({"error": str(error)}), kind.http, headers, "application/json")


def json_response(content: object) -> Response:
    """Return a document."""
    return Response(orjson.dumps(content), media_type="application/json")


async def _read(service: Service, request: Request, started: float, held: ExitStack) -> Exchange:
    wants_receipt = receipts.wanted(request.headers.get(receipts.HEADER))
    if wants_receipt:
        service.check_receipts()
    deadline = started + _timeout_s(request, service.options.deadline_s)
    try:
        async with asyncio.timeout(service.options.body_timeout_s):
            body = await _body(service, request, held)
    except TimeoutError:
        raise Refusal(
            Kind.LATE_BODY,
            f"the request was not complete after {service.options.body_timeout_s:g} s",
            "send it faster, or in smaller parts",
        ) from None
    return Exchange(request, body, deadline, wants_receipt)


def _timeout_s(request: Request, most: float) -> float:
    text = request.headers.get(_TIMEOUT_HEADER)
    if text is None:
        return most
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= _LARGEST_TIMEOUT_S:
        invalid(
            f"the header {_TIMEOUT_HEADER} is not a number of seconds",
            "write for example X-Request-Timeout: 2.5",
        )
    return seconds


async def _body(service: Service, request: Request, held: ExitStack) -> bytes:
    most = service.options.max_body_bytes
    announced = request.headers.get("content-length")
    if announced is not None and announced.isdigit():
        if int(announced) > most:
            await _linger(request, most)
            raise _too_large(most)
        held.enter_context(service.reserve(int(announced)))
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            await _linger(request, most)
            raise _too_large(most)
        if announced is None:
            held.enter_context(service.reserve(len(part)))
        if part:
            parts.append(part)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding in ("gzip", "deflate"):
        body = _unpacked(body, encoding, most)
        held.enter_context(service.reserve(len(body)))
    elif encoding != "identity":
        invalid("the body has a content-encoding that is not read", "send gzip, deflate or none")
    return body


async def _linger(request: Request, most: int) -> None:
    """Drop a bounded rest of a body that is too large: who is cut off while sending may miss the answer."""
    dropped = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            async for part in request.stream():
                dropped += len(part)
                if dropped > 2 * most:
                    return


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """At most one byte more than allowed is ever unpacked."""
    unpacker = zlib.decompressobj(31 if encoding == "gzip" else 15)
    try:
        unpacked = unpacker.decompress(body, most + 1)
    except zlib.error:
        invalid(f"the body is not {encoding}", "send what the content-encoding says")
    if len(unpacked) > most:
        raise _too_large(most)
    if not unpacker.eof or unpacker.unused_data:
        invalid(f"the body is not one whole {encoding} stream", "send what the content-encoding says")
    return unpacked


def _too_large(most: int) -> Refusal:
    return Refusal(
        Kind.TOO_LARGE, f"the body has more than {most} bytes", "send less at once, or raise --max-body-mb"
    )


def _response(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    kind = headers.pop("content-type", "application/json")
    if len(body) >= _GZIP_FROM and kind == "application/json" and _takes_gzip(request):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers |= {"content-encoding": "gzip", "vary": "accept-encoding"}
    return Response(body, headers=headers, media_type=kind)


def _takes_gzip(request: Request) -> bool:
    offered = request.headers.get("accept-encoding", "").lower().split(",")
    return any(one.strip().split(";")[0] == "gzip" and "q=0" not in one.replace(" ", "") for one in offered)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what goes wrong while a client's document is taken apart into a refusal that names `what`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError, AttributeError, IndexError):
        invalid(
            f"{what} is not of the expected form", "docs/how-to/serve.md shows requests of each interface"
        )
