"""uvicorn's protocol with bodies that are copied once."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
