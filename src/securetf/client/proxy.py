"""`securetf proxy`: a plain local port for programs in any language, and the attested service behind it."""

import asyncio
import ipaddress
import signal
from collections.abc import Callable
from pathlib import Path

from securetf.client.relay import Relay
from securetf.client.service import AttestedService
from securetf.errors import PortInUseError, SecuretfError, UsageError

_BACKLOG = 1024


def local_address(listen: str) -> tuple[str, int]:
    """Return host and port of 127.0.0.1:PORT or [::1]:PORT; port 0 takes a free one.

    Raises:
        UsageError: not of the form, or not this machine alone: what goes in is not encrypted.
    """
    host, colon, port = listen.rpartition(":")
    try:
        address = ipaddress.ip_address(host.strip("[]") if host != "localhost" else "127.0.0.1")
        number = int(port) if port.isascii() and port.isdigit() else -1
    except ValueError:
        address, number = None, -1
    if address is None or not colon or not 0 <= number <= 65535:
        raise UsageError(f"--listen is {listen!r}, expected such as 127.0.0.1:8501", "give address and port")
    if not address.is_loopback:
        raise UsageError(
            f"{address} can be reached from other machines, and what goes into the proxy is not encrypted",
            "listen on 127.0.0.1, and run a proxy beside each client",
        )
    return str(address), number


async def run(
    service: AttestedService,
    listen: tuple[str, int],
    *,
    client_key: Path | None,
    ready: Callable[[str, int], None],
    told: Callable[[SecuretfError], None],
    grace_s: float,
) -> int:
    """Serve until SIGTERM or SIGINT, then let connections end for `grace_s`; return how many were cut.

    ready: called with the address once it listens, which is after the service has proved itself.

    Raises:
        ServiceNotProvedError, ServiceUnreachableError: at the start. PortInUseError: the port is taken.
    """
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, service.ensure)
    relay = Relay(service, client_key=client_key, told=told)
    try:
        server = await asyncio.start_server(relay.serve, *listen, backlog=_BACKLOG)
    except OSError as error:
        raise PortInUseError(
            f"{listen[0]}:{listen[1]} cannot be listened on: {error.strerror}", "give another --listen"
        ) from None
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        ready(*server.sockets[0].getsockname()[:2])
        await stopped.wait()
        server.close()
        return await relay.stop(grace_s)
    finally:
        server.close()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
