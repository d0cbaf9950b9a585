"""Uploads of clients outside of the session, for `network.py`: the relay's public port against stunnel.

The program is `relay_bench sink`: it takes a body and answers with one byte. The client is the same for all,
Python's `ssl` with TLS 1.3 and a body that is there already; both ends of TLS share the machine's cores.
"""

import socket
import ssl
import time

BODIES = (("600 kB", 602_112, 40), ("64 MiB", 64 << 20, 1))  # name, bytes, how many in one measurement


def upload_ms(port: int, size: int, count: int, *, secured: bool) -> float:
    """Return what one body and its answer take over a connection that is there already."""
    message = size.to_bytes(8, "big") + bytes(size)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _context().wrap_socket(plain) if secured else plain
        _exchange(connection, message)
        begin = time.perf_counter()
        for _ in range(count):
            _exchange(connection, message)
        taken = time.perf_counter() - begin
        connection.close()
    return taken * 1000 / count


def _exchange(connection: socket.socket, message: bytes) -> None:
    connection.sendall(message)
    if connection.recv(1) != b"\1":
        raise SystemExit("the connection ended before the body had its answer")


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only speed is asked for
    context.set_alpn_protocols(["http/1.1"])
    return context
