"""uvicorn's protocol with limits on time and size of a request's head, and bodies that are copied once."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MAX_HEAD_BYTES = 64 << 10
_WAKE_BYTES = 1 << 20  # of a body, before the application is told; uvicorn tells it every 64 KiB


class WholeBodies(HttpToolsProtocol):
    """Gathers a body's parts, and gives them to the application as one, of 1 MiB and more at a time."""

    _parts: list[bytes]
    _gathered = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._parts, self._gathered = [], 0

    def on_body(self, body: bytes) -> None:
        if self.parser.should_upgrade() or self.cycle.response_complete:
            super().on_body(body)
            return
        self._parts.append(body)
        self._gathered += len(body)
        if self._gathered > _WAKE_BYTES:
            self.flow.pause_reading()
            self._hand_over()

    def on_message_complete(self) -> None:
        if self._parts:
            self._hand_over()
        super().on_message_complete()

    def _hand_over(self) -> None:
        """uvicorn takes the body as `bytes(…)`, which is no copy of what is `bytes`."""
        parts = [bytes(self.cycle.body), *self._parts] if self.cycle.body else self._parts
        self.cycle.body = b"".join(parts)  # type: ignore[assignment]
        self._parts, self._gathered = [], 0
        self.cycle.message_event.set()


def protocol(  # noqa: C901  (one small class)
    header_timeout_s: float,
) -> type[HttpToolsProtocol]:
    """Return a protocol that aborts a connection whose request's head takes longer or has over 64 KiB."""

    class Timed(WholeBodies):
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

        def _begin(self) -> None:
            if self._timer is None:
                self._head_bytes = 0
                self._timer = self.loop.call_later(header_timeout_s, self.transport.abort)

        def _end(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Timed
