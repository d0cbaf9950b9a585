"""gRPC to an attested service: the channel ends at a UNIX socket of this process, which carries it on.

gRPC checks names of certificates, and members have none in DNS; its own TLS could not be told to compare a
key. So its bytes pass through `relay.Relay`, in a thread of this process, which compares keys exactly.
"""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from securetf.client.relay import Relay
from securetf.client.service import AttestedService

_START_S = 10.0
_BYTES_UNLIMITED = -1  # of a message; the service has limits of its own


class ChannelRelay:
    """A relay behind a UNIX socket in a directory that only this user may enter. Call `close`."""

    def __init__(self, service: AttestedService, client_key: Path | None) -> None:
        self._service = service
        self._directory = TemporaryDirectory(prefix="securetf-")  # mode 0700
        self.path = Path(self._directory.name) / "service"
        self._relay = Relay(service, client_key=client_key)
        self._loop = asyncio.new_event_loop()
        self._ended: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="securetf-channel", daemon=True)
        self._thread.start()
        if not self._ready.wait(_START_S):
            raise AssertionError("the relay's thread did not start")

    def open(self, options: list[tuple[str, Any]]) -> grpc.Channel:
        """Return a channel to the service; each call is preceded by a look at its attestation."""
        authority = f"{self._service.host}:{self._service.port}"
        merged = {
            "grpc.default_authority": authority,
            "grpc.max_receive_message_length": _BYTES_UNLIMITED,
            **dict(options),
        }
        plain = grpc.insecure_channel(f"unix:{self.path}", options=list(merged.items()))
        return grpc.intercept_channel(plain, _Attested(self._service))

    def close(self) -> None:
        """Cut what is open and remove the socket."""
        if self._thread.is_alive() and self._ended is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()
        self._directory.cleanup()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _main(self) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_unix_server(self._relay.serve, self.path)
        self._ready.set()
        await self._ended.wait()
        server.close()
        await self._relay.stop(0.0)


class _Attested(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[misc]  # grpc has no types
    grpc.UnaryStreamClientInterceptor,  # type: ignore[misc]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[misc]
    grpc.StreamStreamClientInterceptor,  # type: ignore[misc]
):
    """Raises the error of the attestation itself, where the channel could only say "unavailable"."""

    def __init__(self, service: AttestedService) -> None:
        self._service = service

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        self._service.ensure()
        return continuation(details, request)

    intercept_unary_unary = _call
    intercept_unary_stream = _call
    intercept_stream_unary = _call
    intercept_stream_stream = _call
