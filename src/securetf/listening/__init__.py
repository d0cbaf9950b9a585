"""Sockets that a service of ours listens on: addresses as operators write them, and clear refusals."""

import socket

from securetf.errors import PortInUseError, UsageError


def bind(listen: str) -> socket.socket:
    """Return a listening socket for `host:port`; port 0 takes a free one.

    Raises:
        UsageError: not host:port, or not an address of this machine. PortInUseError: taken.
    """
    host, port = split(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"{host!r} is not an address: {error.strerror}", "name an address of this machine"
        ) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listening.bind(address)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise in_use(listen, error.strerror or "") from None
    return listening


def split(listen: str) -> tuple[str, int]:
    """Return host and port of `host:port`; an IPv6 address stands in brackets.

    Raises:
        UsageError: not of this form.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{listen!r} is not host:port", "write for example 127.0.0.1:8443")
    return host.removeprefix("[").removesuffix("]"), int(port)


def in_use(listen: str, reason: str) -> PortInUseError:
    """Return the error for an address that cannot be listened on."""
    return PortInUseError(
        f"{listen} cannot be listened on: {reason}".rstrip(": "),
        "stop what listens there, or choose another port (0 takes a free one)",
    )
