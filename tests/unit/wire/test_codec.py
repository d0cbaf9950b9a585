"""Messages: what is decoded has its form; everything else is refused by name."""

import pytest

from securetf.errors import LimitError, UsageError
from securetf.wire import AdvanceRequest, ChallengeRequest, SessionCreateRequest, decode, encode

ADVANCE = AdvanceRequest(epoch=1, seq=2, root=b"r" * 32, new_seq=3, new_root=b"n" * 32)


def test_a_message_survives_the_wire() -> None:
    assert decode(encode(ADVANCE), AdvanceRequest) == ADVANCE


def test_every_truncation_is_refused() -> None:
    raw = encode(ADVANCE)
    for length in range(len(raw)):
        with pytest.raises(UsageError, match="AdvanceRequest"):
            decode(raw[:length], AdvanceRequest)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"session":"a/b","workload":"w","more":1}', "unknown field `more`"),
        (b'{"session":"a/b"}', "missing required field `workload`"),
        (b'{"session":"a/b","workload":1}', r"Expected `str`, got `int` - at `\$.workload`"),
        (b'{"session":"a","workload":"w"}', r"at `\$.session`"),
        (b'{"session":"a/../b","workload":"w"}', r"at `\$.session`"),
        (b'{"session":"a/b","workload":"w","instance":65536}', r"at `\$.instance`"),
        (b'{"session":"a/b","workload":"w","instance":"1"}', r"at `\$.instance`"),
        (b'{"session":"a/b","workload":"w"} ', None),
        (b'{"session":"a/b","workload":"w"}{}', "trailing"),
        (b"[]", "Expected `object`"),
        (b"\xff\xfe", "malformed|invalid"),
        (b"", "truncated"),
    ],
)
def test_what_is_not_of_the_form_is_refused(raw: bytes, reason: str | None) -> None:
    if reason is None:
        decode(raw, ChallengeRequest)
        return
    with pytest.raises(UsageError, match=reason):
        decode(raw, ChallengeRequest)


@pytest.mark.parametrize("root", [b"r" * 31, b"r" * 33, b""])
def test_bytes_of_another_size_are_refused(root: bytes) -> None:
    raw = encode(AdvanceRequest(epoch=1, seq=2, root=root, new_seq=3, new_root=b"n" * 32))
    with pytest.raises(UsageError, match=r"at `\$.root`"):
        decode(raw, AdvanceRequest)


def test_a_message_that_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(LimitError, match="the limit is 1048576"):
        decode(b"{" * (1 << 20) + b"{", SessionCreateRequest)


def test_a_message_that_is_too_deep_is_refused() -> None:
    with pytest.raises(LimitError, match="nested deeper than 16"):
        decode(b'{"manifest":' + b"[" * 40 + b"]" * 40 + b"}", SessionCreateRequest)


def test_brackets_inside_of_text_are_no_depth() -> None:
    text = "[" * 40 + '\\"' + "{" * 40
    assert decode(encode(SessionCreateRequest(manifest=text)), SessionCreateRequest).manifest == text
