"""Heads of requests are bounded in time and size; the rest of a connection is not their matter."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from securetf.listening import bind
from securetf.listening.heads import bounded

TIMEOUT_S = 0.4
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def application(_: Any, receive: Any, send: Any) -> None:
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    answer = str(size).encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    config = uvicorn.Config(
        application, http=bounded(HttpToolsProtocol, TIMEOUT_S), ws="none", lifespan="off",
        loop="asyncio", log_config=None, timeout_keep_alive=30,
    )  # fmt: skip
    server, listening = uvicorn.Server(config), bind("127.0.0.1:0")
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def connection(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10) as made:
        yield made


def is_cut(connection: socket.socket, *, after_s: float = 0.0) -> bool:
    """Return whether the other side ends the connection without an answer, and not before."""
    started = time.monotonic()
    try:
        ended = connection.recv(1) == b""
    except ConnectionResetError:
        ended = True
    return ended and time.monotonic() - started >= after_s


def ask(connection: socket.socket) -> bytes:
    connection.sendall(REQUEST)
    return answered(connection, b"\r\n\r\n0")


def answered(connection: socket.socket, end: bytes) -> bytes:
    """Return what comes up to this; the answer may come in parts."""
    answer = b""
    while end not in answer:
        part = connection.recv(4096)
        assert part, answer
        answer += part
    return answer


def test_head_when_it_does_not_come_or_stops_then_the_connection_is_cut(connection: socket.socket) -> None:
    connection.sendall(REQUEST[:10])
    assert is_cut(connection, after_s=TIMEOUT_S / 2)


def test_connection_when_nothing_comes_then_cut(connection: socket.socket) -> None:
    assert is_cut(connection, after_s=TIMEOUT_S / 2)


def test_head_when_it_drips_then_cut_all_the_same(connection: socket.socket) -> None:
    started = time.monotonic()
    try:
        for byte in REQUEST * 100:
            connection.sendall(bytes((byte if byte not in b"\r\n" else 0x61,)))
            time.sleep(0.02)
    except OSError:
        pass
    assert time.monotonic() - started < 10 * TIMEOUT_S


def test_head_when_it_has_more_than_64_kib_then_cut_before_its_time(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n")
        started = time.monotonic()
        try:
            connection.sendall(b"X: " + b"x" * (66 << 10))
            assert is_cut(connection)
        except OSError:
            pass
        assert time.monotonic() - started < TIMEOUT_S


def test_connection_when_kept_alive_then_idle_time_is_not_the_heads(connection: socket.socket) -> None:
    assert b"200 OK" in ask(connection)
    time.sleep(2 * TIMEOUT_S)
    assert b"200 OK" in ask(connection)


def test_second_head_when_it_stops_then_cut_too(connection: socket.socket) -> None:
    assert b"200 OK" in ask(connection)
    connection.sendall(REQUEST[:10])
    assert is_cut(connection, after_s=TIMEOUT_S / 2)


def test_body_when_slower_than_a_head_may_be_then_read_to_its_end(connection: socket.socket) -> None:
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
    for _ in range(4):
        time.sleep(TIMEOUT_S / 2)
        connection.sendall(b"b")
    assert b"200 OK" in answered(connection, b"\r\n\r\n4")
