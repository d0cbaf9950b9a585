"""Routes of the HTTP interfaces."""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from securetf.serving.rest import oip, tfs
from securetf.serving.rest.exchange import json_response
from securetf.serving.rest.openapi import document
from securetf.serving.service import Service

_Endpoint = Callable[[Request], Awaitable[Response]]


def application(service: Service) -> Starlette:
    """Return the ASGI application."""

    def reading(answer: Callable[[Service, Request], Response]) -> _Endpoint:
        async def endpoint(request: Request) -> Response:
            return answer(service, request)

        return endpoint

    async def compute(request: Request) -> Response:
        return await tfs.compute(service, request)

    async def infer(request: Request) -> Response:
        return await oip.infer(service, request)

    gets = {
        "/v1/models/{path:path}": tfs.read,
        "/v2": lambda *_: json_response(oip.server_metadata()),
        "/v2/health/live": lambda *_: json_response({"live": True}),
        "/v2/health/ready": _ready,
        "/v2/models/{model}": oip.model,
        "/v2/models/{model}/ready": oip.model,
        "/v2/models/{model}/versions/{number}": oip.model,
        "/v2/models/{model}/versions/{number}/ready": oip.model,
        "/monitoring/prometheus/metrics": _metrics,
        "/metrics": _metrics,
        "/openapi.json": lambda *_: json_response(document()),
    }
    routes = [  # tried in this order: first those whose requests are counted in microseconds
        Route("/v2/models/{model}/infer", infer, methods=["POST"]),
        Route("/v1/models/{path:path}", compute, methods=["POST"]),
        Route("/v2/models/{model}/versions/{number}/infer", infer, methods=["POST"]),
    ]
    routes += [Route(path, reading(answer), methods=["GET"]) for path, answer in gets.items()]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})


def _ready(service: Service, _: Request) -> Response:
    ready = service.ready()
    response = json_response({"ready": ready})
    response.status_code = 200 if ready else 503
    return response


def _metrics(service: Service, _: Request) -> Response:
    return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


async def _no_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for nothing else)
    response = json_response({"error": "Malformed request: no such path or method"})
    response.status_code = error.status_code
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response
