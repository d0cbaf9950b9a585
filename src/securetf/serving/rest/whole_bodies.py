"""uvicorn's protocol with bodies that the kernel writes where they stay; answers are written at once.

By itself, uvicorn gets a body in parts, each copied twice on its way, and joins them by a third copy. Here
the parser sees a body's first bytes at most; where the head says how long it is, the rest is read into its
place.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import ref

import httptools
import numpy as np
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from securetf.serving.rest.exchange import WHEN_LOST

_HEAD_BYTES = 16 << 10  # at once, of what the parser reads
_PART_BYTES = 1 << 20  # of a body, before the application is told; uvicorn tells it every 64 KiB
_JOINED_BYTES = 64 << 10  # of an answer: the copy of more would cost more than a write
_EVENTS = (
    *("connection_made", "connection_lost", "eof_received", "pause_writing", "resume_writing"),
    *("get_buffer", "buffer_updated"),
)


class WholeBodies(HttpToolsProtocol):
    """Gives the application each body in one part, longer ones in parts of 1 MiB."""

    _left = 0  # of the body whose length the head told: bytes that are not here yet
    _body: "_Body"

    def __init__(self, *arguments: Any, scratch: memoryview, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._scratch = scratch
        self._when_lost: list[Callable[[], object]] = []  # of all requests of this connection

    def get_buffer(self, _: int) -> memoryview:
        """Return where the next bytes are to be written."""
        if not self._left:
            return self._scratch
        if self.cycle.response_complete:  # answered already: nobody reads the rest
            return self._scratch[: self._left]
        return self._body.room(self._left)

    def buffer_updated(self, size: int) -> None:
        """Take what was written."""
        if not self._left:
            self.data_received(self._scratch[:size])  # type: ignore[arg-type]  # any buffer will do
            return
        self._unset_keepalive_if_required()
        self._left -= size
        if not self.cycle.response_complete:
            self._body.fill(size)
            self._tell_if_much()
        if not self._left:
            self.parser = _parser(self)  # the one that waits for the body's end will not see it
            self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for tell in list(self._when_lost):
            tell()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        body = self._body = _Body(self.cycle)
        self.cycle.receive = body.receive  # type: ignore[method-assign]
        self.cycle.send = _Answer(self.cycle).send  # type: ignore[method-assign]

        def answered() -> None:
            body.drop()
            self.on_response_complete()

        self.cycle.on_response = answered
        self.scope[WHEN_LOST] = self._when_lost  # type: ignore[literal-required]
        self._left = self._announced()

    def _announced(self) -> int:
        """Return the length that the head tells; 0 if that is not how the body ends."""
        if self.parser.should_upgrade() or any(name == b"transfer-encoding" for name, _ in self.headers):
            return 0
        lengths = [value for name, value in self.headers if name == b"content-length"]
        return int(lengths[0]) if len(lengths) == 1 and lengths[0].isdigit() else 0

    def on_body(self, body: bytes) -> None:
        self._left = max(0, self._left - len(body))
        if self.parser.should_upgrade() or self.cycle.response_complete:
            super().on_body(body)
            return
        self._body.add(body)
        self._tell_if_much()

    def on_message_complete(self) -> None:
        self._body.end()
        super().on_message_complete()

    def _tell_if_much(self) -> None:
        if self._body.size >= _PART_BYTES:
            self._body.end()
            self.flow.pause_reading()
            self.cycle.message_event.set()


class _Body:
    """What is there of a request's body and was not given to the application."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = ref(cycle)  # what is freed with its request needs no search for cycles
        self._parts: list[bytes | memoryview] = []
        self._place: memoryview | None = None
        self.size = self._filled = 0

    def add(self, part: bytes) -> None:
        """Append what the parser gave."""
        self._parts.append(part)
        self.size += len(part)

    def room(self, left: int) -> memoryview:
        """Return the place of what follows, of which there will be `left` bytes.

        Never an empty one: a full part is closed, and nothing is read until the application took it.
        """
        if self._place is None:
            first = b""
            if self.size <= _HEAD_BYTES:  # what came with the head
                first, self._parts = b"".join(self._parts), []
            self._place = np.empty(min(len(first) + left, _PART_BYTES), np.uint8).data
            self._place[: len(first)] = first
            self._filled = len(first)
        return self._place[self._filled :]

    def fill(self, size: int) -> None:
        """Append what was written to that place."""
        self._filled += size
        self.size += size

    def end(self) -> None:
        """Close the part that is being filled."""
        if self._place is not None:
            self._parts.append(self._place[: self._filled].toreadonly())
            self._place, self._filled = None, 0

    def drop(self) -> None:
        """Forget what nobody will take."""
        self._parts, self.size = [], 0
        self._place, self._filled = None, 0

    async def receive(self) -> Any:
        """Do as uvicorn's `receive`, which knows the body as `bytes` alone."""
        cycle = self._cycle()
        if cycle is None:
            return {"type": "http.disconnect"}
        message: Any = await RequestResponseCycle.receive(cycle)
        if message["type"] == "http.request" and self._parts:
            parts, self._parts, self.size = self._parts, [], 0
            message["body"] = parts[0] if len(parts) == 1 else b"".join(parts)
        return message


class _Answer:
    """Writes an answer's head together with what follows: by itself, it wakes the client for nothing."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle, self._transport = ref(cycle), cycle.transport
        self._head: bytes | None = None
        self._heads = False
        cycle.transport = self  # type: ignore[assignment]

    async def send(self, message: Any) -> None:
        """Do as uvicorn's `send`."""
        self._heads = message["type"] == "http.response.start"
        if (cycle := self._cycle()) is not None:
            await RequestResponseCycle.send(cycle, message)
        if not self._heads and self._head is not None:  # HEAD: nothing follows
            self.write(b"")

    def write(self, content: bytes) -> None:
        """Write, or keep what is a head."""
        if self._heads:
            self._head = content
            return
        head, self._head = self._head, None
        if head is not None and len(content) <= _JOINED_BYTES:
            content = head + content
        elif head is not None:
            self._transport.write(head)
        self._transport.write(content)

    def close(self) -> None:
        """Close once all is written."""
        if self._head is not None:
            self.write(b"")
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is being closed."""
        return self._transport.is_closing()


class _Buffered(asyncio.BufferedProtocol):
    """The protocol as event loops want to have one that says where its bytes are to be written."""

    def __init__(self, protocol: WholeBodies) -> None:
        for name in _EVENTS:
            setattr(self, name, getattr(protocol, name))


def in_place(protocol: type[WholeBodies]) -> Callable[..., asyncio.BufferedProtocol]:
    """Return what makes the protocol of a connection, for `uvicorn.Config.http`."""
    scratch = memoryview(bytearray(_HEAD_BYTES))  # for all connections: nothing stays in it

    def made(*arguments: Any, **options: Any) -> asyncio.BufferedProtocol:
        return _Buffered(protocol(*arguments, scratch=scratch, **options))

    return made


def _parser(protocol: HttpToolsProtocol) -> httptools.HttpRequestParser:
    """Return a parser as uvicorn makes them."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
