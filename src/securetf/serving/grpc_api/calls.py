"""What the gRPC handlers share: a call's message and answer as bytes, its deadline, status, count and
receipt.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from securetf.errors import SecuretfError
from securetf.serving import receipts
from securetf.serving.errors import Kind, Refusal
from securetf.serving.models import Version
from securetf.serving.protocols import message
from securetf.serving.service import Service

Context: TypeAlias = grpc.aio.ServicerContext


@dataclass(slots=True)
class Call:
    """request: what the method's parser returned. deadline: on the monotonic clock. A handler sets the
    version whose answer it is.
    """

    request: Any
    deadline: float
    model: str = ""
    version: Version | None = None


Handler = Callable[[Service, Call], Awaitable[Any]]


Parser = Callable[[str, bytes], Any]


def unary(
    service: Service, api: str, method: str, request_type: str, handler: Handler, parse: Parser | None = None
) -> grpc.RpcMethodHandler:
    """Return a unary method. Messages are parsed and written here, so that receipts are over exactly their
    bytes.
    """
    parse = parse or parsed

    async def behaviour(raw: bytes, context: Context) -> bytes:
        started = time.monotonic()
        status, call = "OK", Call(None, deadline_of(service, context, started))
        try:
            with service.reserve(len(raw)):
                asked = wants_receipt(service, context)
                call.request = parse(request_type, raw)
                answer: bytes = (await handler(service, call)).SerializeToString()
                if asked and call.version:
                    receipt = service.receipt(call.version, raw, answer)
                    context.set_trailing_metadata(((receipts.HEADER, receipt),))
                return answer
        except SecuretfError as error:
            status = status_of(error).name
            await context.abort(status_of(error), str(error), retry_metadata(error))
        except BaseException as error:
            status = "CANCELLED" if type(error).__name__ == "CancelledError" else "INTERNAL"
            raise
        finally:
            service.count(api, method, call.model, status)
            service.metrics.observe(
                "securetf_serving_request_seconds",
                "From the first byte of a request's body to its answer.",
                (("api", api), ("method", method)),
                time.monotonic() - started,
            )
        raise AssertionError  # abort has raised

    return grpc.unary_unary_rpc_method_handler(behaviour)


def deadline_of(service: Service, context: Context, started: float) -> float:
    """Return the client's deadline, or the operator's for requests without one."""
    left = context.time_remaining()
    return started + (service.options.deadline_s if left is None else left)


def wants_receipt(service: Service, context: Context) -> bool:
    """Whether the metadata ask for a receipt.

    Raises:
        Refusal: they do, and none can be signed; or their value is unknown.
    """
    metadata = dict(context.invocation_metadata() or ())
    asked = receipts.wanted(metadata.get(receipts.HEADER))
    if asked:
        service.check_receipts()
    return asked


def parsed(name: str, raw: bytes) -> Any:
    """Return a message.

    Raises:
        Refusal: the bytes are not one.
    """
    try:
        return message(name).FromString(raw)
    except DecodeError:
        raise Refusal(
            Kind.INVALID, f"the request is not a {name.split('.')[1]}", "use the published .proto"
        ) from None


def status_of(error: SecuretfError) -> grpc.StatusCode:
    """Return the status code of an error."""
    kind = error.kind if isinstance(error, Refusal) else Kind.ENGINE
    code: grpc.StatusCode = grpc.StatusCode[kind.grpc]
    return code


def retry_metadata(error: SecuretfError) -> tuple[tuple[str, str], ...]:
    """Return when to ask again, as gRPC's own retries read it (`grpc-retry-pushback-ms`)."""
    seconds = error.retry_after_s if isinstance(error, Refusal) else 0
    return (("grpc-retry-pushback-ms", str(seconds * 1000)),) if seconds else ()
