"""HTTP and gRPC on one event loop, and an orderly end."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from securetf.listening import bind, in_use, split
from securetf.serving.options import Addresses
from securetf.serving.service import Service

_log = logging.getLogger(__name__)
_READY_POLL_S = 0.02


async def serve(service: Service, listening: Callable[[Addresses], None], ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; `listening` and `ready` as `start.run` has them.

    Raises:
        UsageError, PortInUseError: as `bind`.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    rest_socket = bind(service.options.rest) if service.options.rest else None
    stop_rest = await _start_rest(service, rest_socket) if rest_socket else _ended
    try:
        stop_grpc, grpc_address = await _start_grpc(service)
    except BaseException:
        await stop_rest()
        raise
    listening(Addresses(rest=_name(rest_socket) if rest_socket else "", grpc=grpc_address))
    service.listening = True
    until_ready = asyncio.create_task(_say_ready(service, ready))
    await stop.wait()
    until_ready.cancel()
    service.draining = True
    _log.info("draining")
    await asyncio.gather(stop_rest(), stop_grpc())


def _ended() -> asyncio.Future[None]:
    """End an interface that is off."""
    return asyncio.ensure_future(asyncio.sleep(0))


async def _say_ready(service: Service, ready: Callable[[], None]) -> None:
    while not service.ready():
        await asyncio.sleep(_READY_POLL_S)
    ready()


async def _start_rest(service: Service, listening: socket.socket) -> Callable[[], asyncio.Future[None]]:
    import uvicorn  # noqa: PLC0415  (after the watcher has begun)

    from securetf.listening.heads import bounded  # noqa: PLC0415
    from securetf.serving.rest.app import application  # noqa: PLC0415
    from securetf.serving.rest.whole_bodies import WholeBodies, in_place  # noqa: PLC0415

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # `serve` has them

    options = service.options
    config = uvicorn.Config(
        application(service),
        http=in_place(bounded(WholeBodies, options.header_timeout_s)),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=options.max_connections,
        timeout_keep_alive=int(options.idle_timeout_s),
        timeout_graceful_shutdown=int(options.drain_s),
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # its errors may hold a request's path or body
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not task.done():
        await asyncio.sleep(0.001)

    async def stop() -> None:
        server.should_exit = True
        with suppress(asyncio.CancelledError):
            await task

    return lambda: asyncio.ensure_future(stop())


async def _start_grpc(service: Service) -> tuple[Callable[[], asyncio.Future[None]], str]:
    options = service.options
    if not options.grpc:
        return _ended, ""
    grpc, oip, tfs = await asyncio.to_thread(_grpc_modules)  # HTTP is served meanwhile
    host, port = split(options.grpc)
    server = grpc.aio.server(
        handlers=[*tfs.handlers(service), *oip.handlers(service)],
        options=[
            ("grpc.max_receive_message_length", options.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", 64 << 10),
            ("grpc.max_concurrent_streams", options.max_connections),
            ("grpc.http2.max_frame_size", 1 << 20),
            ("grpc.http2.lookahead_bytes", 4 << 20),
            ("grpc.http2.bdp_probe", 0),  # windows are wide already
            ("grpc.so_reuseport", 0),
            ("grpc.max_connection_idle_ms", int(options.idle_timeout_s * 1000)),
            ("grpc.server_handshake_timeout_ms", int(options.header_timeout_s * 1000)),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
        ],
        maximum_concurrent_rpcs=options.max_connections,
    )
    bracketed = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{bracketed}:{port}")
    except RuntimeError:
        raise in_use(options.grpc, "gRPC cannot bind it") from None
    await server.start()
    return lambda: asyncio.ensure_future(server.stop(options.drain_s)), f"{bracketed}:{bound}"


def _grpc_modules() -> tuple[Any, Any, Any]:
    import grpc  # noqa: PLC0415  (see `_start_grpc`)

    from securetf.serving.grpc_api import oip, tfs  # noqa: PLC0415

    return grpc, oip, tfs


def _name(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
