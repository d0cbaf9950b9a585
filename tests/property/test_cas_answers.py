"""What a CAS's end of the connection may send: any bytes are an answer, or refused as callers expect."""

import time
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from securetf.cas_client.http1 import Connection, CutError, ImproperError
from securetf.tls.client import ClientSocket

LIMIT = 1000
LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue", b"HTTP/1.0 200 OK",
        b"content-length: 5",
        b"Content-Length: 5", b"content-length:", b"content-length: +5", b"content-length: 5, 5",
        b"connection: close", b"transfer-encoding: chunked", b": 1", b"no colon", b"", b"12345",
        b"\xff: \x00",
    ]
)  # fmt: skip


class Pieces:
    """A connection on which so many bytes at a time arrive, and then its end."""

    def __init__(self, text: bytes, sizes: list[int]) -> None:
        self.left, self.sizes = text, sizes or [1]

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def sendall(self, _: bytes) -> None:
        """Nobody reads it."""

    def receive(self, most: int) -> bytes:
        size = min(most, self.sizes[len(self.left) % len(self.sizes)])
        part, self.left = self.left[:size], self.left[size:]
        return part


def asked(text: bytes, sizes: list[int]) -> tuple[int, bytes]:
    connection = Connection(cast(ClientSocket, Pieces(text, sizes)), "cas:443")
    return connection.exchange("POST", "/v1/x", b"", {}, deadline=time.monotonic() + 60, limit=LIMIT)


@given(
    st.one_of(
        st.lists(LINES).map(b"\r\n".join),
        st.binary(),
        st.binary().map(b"HTTP/1.1 200 OK\r\n".__add__),
    ),
    st.lists(st.integers(1, 40), max_size=3),
)
def test_answer_when_it_is_any_bytes_in_any_pieces_then_whole_or_refused(
    text: bytes, sizes: list[int]
) -> None:
    try:
        status, body = asked(text, sizes)
    except (CutError, ImproperError):
        return
    assert 200 <= status < 600
    assert text.partition(b"\r\n\r\n")[2].startswith(body)
    assert f"content-length: {len(body)}".encode() in text.lower()


@given(st.binary(max_size=LIMIT), st.lists(st.integers(1, 40), max_size=3), st.integers(200, 599))
def test_answer_when_it_is_a_cass_in_any_pieces_then_read_as_it_is(
    body: bytes, sizes: list[int], status: int
) -> None:
    head = f"HTTP/1.1 {status} Any\r\ncontent-length: {len(body)}\r\ncontent-type: application/json\r\n\r\n"
    assert asked(head.encode() + body, sizes) == (status, body)
