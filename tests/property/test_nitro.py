"""For every Nitro document: parse and encode agree, no cut or bit flip passes, and only our errors leave."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from securetf.errors import EvidenceError, MalformedEvidenceError
from securetf.evidence import cbor, nitro
from support.nitro import make_module

MODULE = make_module()
RAW = MODULE.document()
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20)
)
ITEMS: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.integers(-100, 100) | st.text(max_size=5), inner, max_size=4)
        | st.builds(cbor.Tagged, st.integers(0, 1 << 32), inner)
    ),
    max_leaves=8,
)


def depth(item: Any) -> int:
    """Return how deep an item is nested."""
    inner = item if isinstance(item, tuple) else item.values() if isinstance(item, dict) else ()
    inner = (item.value,) if isinstance(item, cbor.Tagged) else inner
    return 1 + max(map(depth, inner), default=0)


@given(ITEMS.filter(lambda item: depth(item) <= cbor.DEPTH_LIMIT))
@FEW
def test_decode_of_encode_is_the_same_item(item: Any) -> None:
    raw = cbor.encode(item)
    assert cbor.decode(raw) == item
    assert cbor.encode(cbor.decode(raw)) == raw


@given(st.binary(max_size=64))
@settings(max_examples=500, deadline=None)
def test_decode_of_anything_is_canonical_or_our_error(raw: bytes) -> None:
    try:
        item = cbor.decode(raw)
    except MalformedEvidenceError:
        return
    assert cbor.encode(item) == raw


@given(st.binary(max_size=512), st.binary(max_size=512), st.binary(max_size=1024), st.integers(1, 1 << 46))
@FEW
def test_parse_of_encode_is_the_same_document(user: bytes, nonce: bytes, key: bytes, time: int) -> None:
    raw = MODULE.document(user_data=user, nonce=nonce, public_key=key, timestamp=time)
    document = nitro.parse(raw)
    assert nitro.parse(nitro.encode(document)) == document
    assert nitro.encode(document) == raw


def test_each_truncation_is_refused() -> None:
    for size in range(len(RAW)):
        with pytest.raises(MalformedEvidenceError):
            nitro.parse(RAW[:size])


@given(st.integers(0, len(RAW) - 1), st.integers(0, 7))
@settings(max_examples=400, deadline=None)
def test_flipped_bit_is_refused(offset: int, bit: int) -> None:
    changed = bytearray(RAW)
    changed[offset] ^= 1 << bit
    with pytest.raises(EvidenceError):
        MODULE.verify(bytes(changed))


@given(st.binary(max_size=6000))
@FEW
def test_parse_of_anything_raises_only_our_error(raw: bytes) -> None:
    for candidate in (raw, cbor.encode((nitro.PROTECTED, {}, raw, bytes(96)))):
        try:
            nitro.parse(candidate)
        except MalformedEvidenceError:
            continue
