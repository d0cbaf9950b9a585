"""The Open Inference Protocol's gRPC service with Triton's ModelStreamInfer, and gRPC health
(grpc.health.v1).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import numpy as np

from securetf.errors import SecuretfError
from securetf.serving.errors import invalid
from securetf.serving.grpc_api.calls import Call, Context, deadline_of, unary
from securetf.serving.grpc_api.raw_tensors import inference
from securetf.serving.models import Version
from securetf.serving.protocols import message
from securetf.serving.rest.oip import (
    check_outputs,
    checked_shape,
    from_raw,
    metadata,
    server_metadata,
    target_of,
    to_raw,
)
from securetf.serving.service import Service
from securetf.serving.tensors import BY_OIP, STRING, Array, ElementType, shaped, strings

_SERVING, _NOT_SERVING = 1, 2
_HEALTH_INTERVAL_S = 0.5
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def handlers(service: Service) -> list[grpc.GenericRpcHandler]:
    """Return both services."""
    unaries = {
        "ServerLive": ("Empty", server_live),
        "ServerReady": ("Empty", server_ready),
        "ServerMetadata": ("Empty", describe_server),
        "ModelReady": ("ModelReadyRequest", model_ready),
        "ModelMetadata": ("ModelMetadataRequest", model_metadata),
    }
    methods = {
        method: unary(service, "oip-grpc", method, f"oip.{request}", handler)
        for method, (request, handler) in unaries.items()
    }
    methods["ModelInfer"] = unary(
        service, "oip-grpc", "ModelInfer", "oip.ModelInferRequest", infer, inference
    )
    methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(_stream(service))
    health = {
        "Check": unary(service, "health", "Check", "oip.HealthCheckRequest", check_health),
        "Watch": grpc.unary_stream_rpc_method_handler(_watch(service)),
    }
    return [
        grpc.method_handlers_generic_handler("inference.GRPCInferenceService", methods),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", health),
    ]


async def server_live(_: Service, __: Call) -> Any:
    """Answer ServerLive."""
    return message("oip.ServerLiveResponse")(live=True)


async def server_ready(service: Service, _: Call) -> Any:
    """Answer ServerReady."""
    return message("oip.ServerReadyResponse")(ready=service.ready())


async def describe_server(_: Service, __: Call) -> Any:
    """Answer ServerMetadata."""
    return message("oip.ServerMetadataResponse")(**server_metadata())


async def model_ready(service: Service, call: Call) -> Any:
    """Answer ModelReady."""
    with service.version(target_of(call.request.name, call.request.version)) as version:
        call.model = version.model
        return message("oip.ModelReadyResponse")(ready=service.ready())


async def model_metadata(service: Service, call: Call) -> Any:
    """Answer ModelMetadata."""
    with service.version(target_of(call.request.name, call.request.version)) as version:
        call.model = version.model
        return message("oip.ModelMetadataResponse")(**metadata(service, version))


async def infer(service: Service, call: Call) -> Any:
    """Answer ModelInfer."""
    request, contents = call.request
    with service.version(target_of(request.model_name, request.model_version)) as version:
        call.model, call.version = version.model, version
        name, signature = version.signature(request.parameters["signature_name"].string_param)
        wanted = [one.name for one in request.outputs]
        check_outputs(wanted, signature)
        outputs = await service.infer(version, name, _inputs(request, contents), deadline=call.deadline)
        return _response(version, request.id, {one: outputs[one] for one in wanted or outputs})


def _inputs(request: Any, raw: Sequence[memoryview]) -> dict[str, Array]:
    if raw and (len(raw) != len(request.inputs) or any(one.HasField("contents") for one in request.inputs)):
        invalid(
            f"{len(raw)} raw_input_contents for {len(request.inputs)} inputs", "send all inputs in one way"
        )
    found: dict[str, Array] = {}
    for number, one in enumerate(request.inputs):
        kind = BY_OIP.get(one.datatype)
        if kind is None:
            invalid(f"tensor {one.name!r} has an unknown datatype", f"known are {sorted(BY_OIP)}")
        if one.name in found:
            invalid(f"tensor {one.name!r} stands twice", "send each input once")
        shape = checked_shape(one.shape, one.name)
        if raw:
            found[one.name] = from_raw(raw[number], kind.dtype, shape, one.name)
        else:
            found[one.name] = shaped(_contents(one, kind), shape, one.name)
    return found


def _contents(tensor: Any, kind: ElementType) -> Array:
    field = _CONTENTS.get(kind.oip)
    if field is None:
        invalid(f"tensor {tensor.name!r} of {kind.oip} has no contents field", "send raw_input_contents")
    values = getattr(tensor.contents, field)
    if kind.dtype == STRING:
        return strings(list(values))
    wide = np.array(values, dtype=None if values else kind.dtype)
    if kind.dtype.kind in "iu" and wide.size:
        limits = np.iinfo(kind.dtype)
        if wide.min() < limits.min or wide.max() > limits.max:
            invalid(
                f"tensor {tensor.name!r} has values that {kind.oip} cannot hold", "send values of its type"
            )
    return wide.astype(kind.dtype)


def _response(version: Version, identifier: str, outputs: dict[str, Array]) -> Any:
    response = message("oip.ModelInferResponse")(
        model_name=version.model, model_version=str(version.number), id=identifier
    )
    for name, array in outputs.items():
        kind = next(one for one in BY_OIP.values() if one.dtype == array.dtype)
        response.outputs.add(name=name, datatype=kind.oip, shape=array.shape)
        response.raw_output_contents.append(to_raw(array))
    return response


def _stream(service: Service) -> Any:
    async def behaviour(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Answer each request of the stream in turn; a refused one gets its error and ends nothing."""
        async for raw in requests:
            call = Call(None, deadline_of(service, context, time.monotonic()))
            answer = message("oip.ModelStreamInferResponse")()
            try:
                with service.reserve(len(raw)):
                    call.request = inference("oip.ModelInferRequest", raw)
                    answer.infer_response.id = call.request[0].id
                    answer.infer_response.CopyFrom(await infer(service, call))
                status = "OK"
            except SecuretfError as error:
                answer.error_message, status = str(error), type(error).__name__
            service.count("oip-grpc", "ModelStreamInfer", call.model, status)
            yield answer.SerializeToString()

    return behaviour


async def check_health(service: Service, _: Call) -> Any:
    """Answer Check: for the whole server, whatever service is named, as all are of one process."""
    return message("oip.HealthCheckResponse")(status=_SERVING if service.ready() else _NOT_SERVING)


def _watch(service: Service) -> Any:
    async def behaviour(_: bytes, __: Context) -> AsyncIterator[bytes]:
        """Send the state now and whenever it changes."""
        last = None
        while True:
            ready = service.ready()
            if ready != last:
                last = ready
                status = _SERVING if ready else _NOT_SERVING
                yield message("oip.HealthCheckResponse")(status=status).SerializeToString()
            await asyncio.sleep(_HEALTH_INTERVAL_S)

    return behaviour
