"""uvicorn under TLS 1.3 with the CAS's own key, which never touches a disk."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from securetf.cas.http.app import EXPORTER, application
from securetf.cas.service import CasIdentity, CasService
from securetf.listening.heads import bounded
from securetf.tls.server import TlsServer, secured

_THREADS = 32
_MAX_CONNECTIONS = 2048
_HANDSHAKE_S = 10.0
_HEAD_S = 10.0
_KEEP_ALIVE_S = 75
_SHUTDOWN_S = 2


def serve(service: CasService, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called once requests are answered."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="cas-call") as workers:
        protocol = _exporting(bounded(HttpToolsProtocol, _HEAD_S))
        config = uvicorn.Config(
            application(service, workers),
            http=secured(_tls(service.context.identity), protocol, _HANDSHAKE_S),  # type: ignore[arg-type]
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        asyncio.run(_Server(config, ready).serve(sockets=[listening]))


class _Server(uvicorn.Server):
    """A server that ends on a signal and lets its caller clean up, instead of raising the signal again."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True


def _tls(identity: CasIdentity) -> TlsServer:
    key = identity.tls_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return TlsServer(identity.certificate, key, b"http/1.1")


def _exporting(base: type[HttpToolsProtocol]) -> type[HttpToolsProtocol]:
    """Return a protocol that tells the application of the connection on which a request arrives."""

    class Exporting(base):  # type: ignore[misc, valid-type]
        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["extensions"] = {EXPORTER: self.transport.get_extra_info("exporter")}

    return Exporting
