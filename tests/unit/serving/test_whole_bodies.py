"""Bodies arrive whole, in whatever pieces they come; the requests behind them are read; answers are whole."""

import asyncio
import gc
import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
import uvloop

from securetf.listening import bind
from securetf.listening.heads import bounded
from securetf.serving.rest.whole_bodies import WholeBodies, in_place

PATIENCE_S = 60
LENGTHS = (0, 1, 1000, 16_384, 65_536, 602_112, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_001)


def content(length: int) -> bytes:
    return hashlib.shake_128(str(length).encode()).digest(length)


async def application(scope, receive, send) -> None:
    """Answer with number, kinds and digest of the parts; /early before the body is read, /long with 1 MB."""
    parts, more = [], scope["path"] != "/early"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        parts.append(message["body"])
        more = message["more_body"]
    answer = hashlib.sha256(b"".join(parts)).hexdigest().encode() + b" %d" % len(
        [one for one in parts if one]
    )
    if scope["path"] == "/long":
        answer = bytes(1 << 20)
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module", params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def port(request) -> Iterator[int]:
    config = uvicorn.Config(
        application, http=in_place(bounded(WholeBodies, PATIENCE_S)), ws="none", lifespan="off",
        log_config=None, timeout_keep_alive=PATIENCE_S,
    )  # fmt: skip
    server, listening = uvicorn.Server(config), bind("127.0.0.1:0")
    thread = threading.Thread(target=lambda: request.param(server.serve(sockets=[listening])))
    thread.start()
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join(PATIENCE_S)


@pytest.fixture
def connection(port) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as made:
        yield made


def head(length: int, path: str = "/", *more: str) -> bytes:
    lines = (f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", *more)
    return "\r\n".join([*lines, "", ""]).encode()


def answer(connection: socket.socket) -> bytes:
    """Return the body of the next answer, which must be a good one."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += received(connection)
    status, _, body = found.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 200 "), status
    length = int(status.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += received(connection)
    assert len(body) == length, "more than one answer: the requests were to be asked one by one"
    return body


def received(connection: socket.socket) -> bytes:
    more = connection.recv(1 << 16)
    assert more, "the connection ended within an answer"
    return more


def digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


@pytest.mark.parametrize("length", LENGTHS)
def test_body_when_sent_at_once_arrives_in_parts_of_a_mebibyte(connection, length) -> None:
    for _ in range(3):
        connection.sendall(head(length) + content(length))
        found, parts = answer(connection).split()
        assert found == digest(content(length))
        assert int(parts) <= length // (1 << 20) + 2


@pytest.mark.parametrize("size", [1, 7, 16_384, 100_000])
def test_body_when_it_comes_in_pieces_arrives_whole(connection, size) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = content(min(size * 40, 1_500_000))
    message = head(len(body)) + body
    for begin in range(0, len(message), size):
        connection.sendall(message[begin : begin + size])
    assert answer(connection).split()[0] == digest(body)


def test_body_when_chunked_arrives_whole_and_the_next_request_is_read(connection) -> None:
    body = content(600_000)
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(one), one) for one in (body[:10], body[10:300_000], body[300_000:])
    )
    start = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.sendall(start + chunks + b"0\r\n\r\n")
    assert answer(connection).split()[0] == digest(body)
    connection.sendall(head(3) + b"abc")
    assert answer(connection).split()[0] == digest(b"abc")


def test_requests_when_sent_ahead_are_answered_in_their_order(connection) -> None:
    bodies = [content(length) for length in (600_000, 5, 70_000, 0, 2_000_000, 16_384)]
    message = b"".join(head(len(one)) + one for one in bodies)
    sender = threading.Thread(target=lambda: connection.sendall(message))
    sender.start()
    found = b""
    while found.count(b"HTTP/1.1 200 ") < len(bodies) or len(found.rpartition(b"\r\n\r\n")[2]) < 66:
        found += received(connection)
    sender.join(PATIENCE_S)
    places = [found.index(digest(one)) for one in bodies]
    assert places == sorted(places)


def test_answer_when_it_comes_before_the_body_leaves_the_connection_usable(connection) -> None:
    body = content(700_000)
    connection.sendall(head(len(body), "/early") + body[:20_000])
    assert answer(connection).split()[0] == digest(b"")
    connection.sendall(body[20_000:])
    connection.sendall(head(len(body)) + body)
    assert answer(connection).split()[0] == digest(body)


def test_client_when_it_waits_to_be_told_to_go_on_is_told(connection) -> None:
    body = content(200_000)
    connection.sendall(head(len(body), "/", "Expect: 100-continue"))
    assert received(connection) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    assert answer(connection).split()[0] == digest(body)


def test_answer_to_head_when_there_is_no_body_is_its_head(connection) -> None:
    connection.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    found = b""
    while more := connection.recv(1 << 16):
        found += more
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.endswith(b"\r\n\r\n")
    assert b"content-length: 66" in found


def test_answer_when_it_is_long_is_whole(connection) -> None:
    connection.sendall(head(0, "/long"))
    assert answer(connection) == bytes(1 << 20)


@pytest.mark.parametrize(
    "lengths", ["Content-Length: 5\r\nContent-Length: 6", "Content-Length: 5\r\nTransfer-Encoding: chunked",
                "Content-Length: +5", "Content-Length: 5, 5", "Content-Length: 99999999999999999999999"],
)  # fmt: skip
def test_head_when_it_does_not_say_one_length_is_refused(connection, lengths) -> None:
    connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n".encode() + b"abcdef")
    found = b""
    while more := connection.recv(1 << 16):
        found += more
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"HTTP/1.1 200" not in found


def test_client_when_it_leaves_within_a_body_disturbs_nobody(port) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as gone:
        gone.sendall(head(600_000) + content(100_000))
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as next_one:
        next_one.sendall(head(602_112) + content(602_112))
        assert answer(next_one).split()[0] == digest(content(602_112))


@pytest.mark.parametrize("path", ["/", "/early"])
def test_requests_when_they_are_answered_leave_nothing_that_only_a_search_for_cycles_finds(
    connection, path
) -> None:
    rounds = 50

    def ask() -> None:
        for _ in range(rounds):
            connection.sendall(head(20_000, path) + content(20_000))
            answer(connection)

    ask()
    gc.collect()
    gc.disable()
    try:
        ask()
        assert gc.collect() < rounds
    finally:
        gc.enable()


def test_body_when_it_was_answered_unread_is_not_kept_until_the_next_request(connection) -> None:
    connection.sendall(head(1 << 20, "/early") + content(1 << 20))
    answer(connection)
    gc.collect()
    (held,) = (one for one in gc.get_objects() if isinstance(one, WholeBodies) and _serves(one, connection))
    limit = time.monotonic() + PATIENCE_S
    while (held._body.size, held._body._parts, held._body._place) != (0, [], None):
        assert time.monotonic() < limit, "it is kept"  # the answer is here before the server goes on
        time.sleep(0.001)


def _serves(protocol: WholeBodies, connection: socket.socket) -> bool:
    return protocol.client == connection.getsockname()[:2]
