"""Carries bytes between a plain local connection and the attested service, whatever protocol they are.

The peer is asked to prove itself, and its key is compared, before the first byte goes up; until then what
the local program has sent waits here. docs/how-to/verify-a-service.md, "securetf proxy".
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

from securetf.client import answers
from securetf.client.ask import peer_spki, tls_context
from securetf.client.service import AttestedService, matches, other_key
from securetf.client.tls import load_client_key, refused_or
from securetf.errors import SecuretfError
from securetf.service_errors import ServiceUnreachableError

_log = logging.getLogger(__name__)
_CHUNK = 256 * 1024  # bytes read at once
_H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 section 3.4
_CONNECT_S = 10.0
_RST = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST


class Relay:
    """Serves local connections; all of it in one event loop.

    told: called with each failure to reach or prove the service, for people.
    """

    def __init__(
        self,
        service: AttestedService,
        *,
        client_key: Path | None = None,
        told: Callable[[SecuretfError], None] = lambda _: None,
    ) -> None:
        self.service, self._told = service, told
        self._contexts = {name: tls_context(name) for name in ("h2", "http/1.1")}
        if client_key is not None:
            for context in self._contexts.values():
                load_client_key(context, client_key)
        self._live: dict[asyncio.Task[None], Link | None] = {}
        self._watch: asyncio.Task[None] | None = None
        self.refused = 0

    @property
    def live(self) -> int:
        """How many local connections are open."""
        return len(self._live)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one local connection to its end; for `asyncio.start_server`."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("not in a task")
        self._live[task] = None
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._keep_attested())
        try:
            await self._serve(task, reader, writer)
        except (
            OSError,
            EOFError,
            asyncio.CancelledError,
        ):  # cancelled by `stop` alone: this is the end of it
            reset(writer)
        finally:
            del self._live[task]
            with contextlib.suppress(OSError):
                writer.close()

    async def stop(self, grace_s: float) -> int:
        """Let live connections end for `grace_s` seconds, then cut them; return how many were cut."""
        if self._live:
            await asyncio.wait(list(self._live), timeout=grace_s)
        left = list(self._live)
        for task in left:
            task.cancel()
        if self._watch is not None:
            self._watch.cancel()
            left.append(self._watch)
        await asyncio.gather(*left, return_exceptions=True)
        return len(left) - (self._watch is not None)

    async def _serve(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first = await _first_bytes(reader)
        if not first:
            return
        protocol = "h2" if first.startswith(_H2_PREFACE[: len(first)]) else "http/1.1"
        try:
            link = await self._link(protocol)
        except SecuretfError as error:
            self.refused += 1
            _log.warning("service_not_reached", extra={"code": error.code})
            self._told(error)
            await answers.refuse(first, reader, writer, protocol, error)
            return
        self._live[task] = link
        try:
            await link.carry(first, reader, writer)
        except (OSError, EOFError) as error:
            known = refused_or(error) if isinstance(error, ssl.SSLError) else None
            if link.answered or reader.exception() is not None:  # the latter: the local program has gone
                reset(writer)
                return
            told = known if isinstance(known, SecuretfError) else _cut(error)
            self._told(told)
            await answers.refuse(first, reader, writer, protocol, told)
        finally:
            link.close()

    async def _link(self, protocol: str) -> "Link":
        """Return a connection to the service whose key is the attested one."""
        loop = asyncio.get_running_loop()
        proved = await loop.run_in_executor(None, self.service.ensure)
        link = await self._open(protocol)
        try:
            if not matches(link.spki, proved):
                proved = await loop.run_in_executor(None, self.service.again, proved)
                if not matches(link.spki, proved):
                    raise other_key(self.service, link.spki)
        except BaseException:
            link.close()
            raise
        link.attested_key = proved.attested_key
        return link

    async def _open(self, protocol: str) -> "Link":
        service = self.service
        try:
            async with asyncio.timeout(_CONNECT_S):
                reader, writer = await asyncio.open_connection(service.host, service.port, limit=_CHUNK)
                link = Link(self._contexts[protocol], reader, writer)
                try:
                    await link.handshake()
                except BaseException:
                    link.close()
                    raise
        except (OSError, EOFError) as error:
            what = "no answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            raise ServiceUnreachableError(
                f"the service at {service.host}:{service.port} cannot be reached: {what}",
                "check that it runs, the address and the network, then try again",
            ) from None
        return link

    async def _keep_attested(self) -> None:
        """While there are connections, have the service prove itself again in time; cut those it fails."""
        loop = asyncio.get_running_loop()
        while self._live:
            left_s = self.service.left_s
            await asyncio.sleep(min(max(left_s / 8, 0.05), 1.0))
            links = {task: link for task, link in self._live.items() if link is not None}
            if not links:
                continue
            try:
                await loop.run_in_executor(None, self.service.early)
                attested = (await loop.run_in_executor(None, self.service.ensure)).attested_key
            except SecuretfError as error:
                self._told(error)
                attested = ""
            for link in links.values():
                if link.attested_key != attested:
                    link.cut()


class Link:
    """One TLS connection to the service, with the TLS here and the sockets in the event loop.

    answered: whether anything came back. spki: the peer's key, after `handshake`.
    """

    def __init__(
        self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing)
        self._reader, self._writer = reader, writer
        self.spki, self.attested_key, self.answered = b"", "", False
        plain = writer.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def handshake(self) -> None:
        """Do the handshake; nothing else is sent. Raises OSError, EOFError."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
                continue
            break
        await self._flush()
        self.spki = peer_spki(self._tls)

    async def carry(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes both ways, beginning with `first`, until both sides have ended.

        Raises:
            ssl.SSLError: an alert. OSError, EOFError: cut without the end of TLS.
        """
        up = asyncio.create_task(self._up(first, reader))
        down = asyncio.create_task(self._down(writer))
        try:
            done, _ = await asyncio.wait((up, down), return_when=asyncio.FIRST_EXCEPTION)
            await asyncio.sleep(0)
            failed = [task for task in (down, up) if task in done and task.exception() is not None]
            if failed == [up] and not down.done():  # an alert may say why it could not be written
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(down), 1.0)
            for task in (down, up):
                if task.done():
                    task.result()
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)

    def cut(self) -> None:
        """End it at once: what is read or written after this fails."""
        reset(self._writer)

    def close(self) -> None:
        """Close the socket."""
        with contextlib.suppress(OSError):
            self._writer.close()

    async def _up(self, first: bytes, reader: asyncio.StreamReader) -> None:
        data = first
        while data:
            self._tls.write(data)
            await self._flush()
            data = await reader.read(_CHUNK)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()  # sends close_notify; the answer may still come
        await self._flush()

    async def _down(self, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                await self._flush()  # of an update of keys
                await self._fill()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                writer.write_eof()
                return
            self.answered = True
            writer.write(data)
            await writer.drain()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            self._writer.write(self._outgoing.read())
            await self._writer.drain()

    async def _fill(self) -> None:
        data = await self._reader.read(_CHUNK)
        if not data:
            raise EOFError("the connection was cut")
        self._incoming.write(data)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, so that the other side takes nothing for a proper end."""
    plain = writer.get_extra_info("socket")
    if plain is not None:
        with contextlib.suppress(OSError):
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
    writer.transport.abort()


def _cut(error: Exception) -> ServiceUnreachableError:
    return ServiceUnreachableError(
        f"the service cut the connection before it answered ({type(error).__name__}); it may have read "
        "the request",
        "see the service's log; if it admits only known clients, give your key with --client-key",
    )


async def _first_bytes(reader: asyncio.StreamReader) -> bytes:
    """Return the first bytes: enough to tell HTTP/2 from everything else."""
    found = b""
    while len(found) < len(_H2_PREFACE) and found == _H2_PREFACE[: len(found)]:
        part = await reader.read(_CHUNK)
        if not part:
            break
        found += part
    return found
