"""uvicorn's protocol with the limits that it lacks: time and size of a request's head."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD_BYTES = 64 << 10
_WAKE_BYTES = 1 << 20  # of a body, before the application is told; uvicorn tells it every 64 KiB


def protocol(  # noqa: C901  (one small class)
    header_timeout_s: float,
) -> type[HttpToolsProtocol]:
    """Return a protocol that aborts a connection whose request's head takes longer or has over 64 KiB."""

    class Timed(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._timer is not None:
                self._head_bytes += len(data)
                if self._head_bytes > _MAX_HEAD_BYTES:
                    self.transport.abort()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._begin()

        def on_headers_complete(self) -> None:
            self._end()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self.parser.should_upgrade() or self.cycle.response_complete:
                super().on_body(body)
                return
            self.cycle.body += body
            if len(self.cycle.body) > _WAKE_BYTES:
                self.flow.pause_reading()
                self.cycle.message_event.set()

        def _begin(self) -> None:
            if self._timer is None:
                self._head_bytes = 0
                self._timer = self.loop.call_later(header_timeout_s, self.transport.abort)

        def _end(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Timed
