"""ModelInferRequest taken apart: what protobuf would say, without its copies."""

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from securetf.serving.errors import Kind, Refusal
from securetf.serving.grpc_api.raw_tensors import inference
from securetf.serving.protocols import message

NAME = "oip.ModelInferRequest"
LARGE = bytes(range(256)) * 512  # 128 KiB: large enough to be taken apart


def request(*contents: bytes, **fields) -> bytes:
    made = message(NAME)(model_name="m", id="7", raw_input_contents=contents, **fields)
    made.inputs.add(name="x", datatype="FP32", shape=(1, 2))
    return made.SerializeToString()


def lies_in(view: memoryview, raw: bytes) -> bool:
    """Whether a view shows bytes of `raw` itself."""
    found, whole = (np.frombuffer(one, np.uint8) for one in (view, raw))
    return np.shares_memory(found, whole)


def test_raw_contents_when_large_stay_where_they_arrived() -> None:
    raw = request(LARGE, b"", b"abc")
    parsed, contents = inference(NAME, raw)
    assert [bytes(one) for one in contents] == [LARGE, b"", b"abc"]
    assert all(lies_in(one, raw) for one in contents if len(one))
    assert (parsed.model_name, parsed.id, parsed.inputs[0].name) == ("m", "7", "x")
    assert not parsed.raw_input_contents


def test_raw_contents_when_between_other_fields_are_found_in_order() -> None:
    raw = request(b"first") + request(LARGE) + message(NAME)(id="8").SerializeToString()
    parsed, contents = inference(NAME, raw)
    assert [bytes(one) for one in contents] == [b"first", LARGE]
    assert (parsed.id, len(parsed.inputs)) == ("8", 2)  # the last string counts, repeated fields add up


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (request(LARGE)[:-1], "the contents end early"),
        (request(LARGE) + b"\x3a", "a key without its length"),
        (request(LARGE) + b"\x3a" + b"\xff" * 10, "a length of eleven bytes"),
        (request(LARGE) + b"\x02\x00", "field 0"),
        (request(LARGE) + b"\x0a\x01\xff", "a name that is not UTF-8"),
        (b"\xff" * (1 << 17), "no key at all"),
    ],
)
def test_message_when_malformed_is_refused_whether_large_or_not(raw, why) -> None:
    with pytest.raises(Refusal, match="the request is not a ModelInferRequest") as caught:
        inference(NAME, raw)
    assert caught.value.kind is Kind.INVALID, why


def test_message_when_of_very_many_fields_is_left_to_protobuf() -> None:
    raw = request(LARGE) + b"\x3a\x00" * 1000
    _, contents = inference(NAME, raw)
    assert [len(one) for one in contents] == [len(LARGE), *[0] * 1000]
    assert not lies_in(contents[0], raw)


@given(noise=st.binary(max_size=24), before=st.booleans())
@settings(max_examples=300, deadline=None)
def test_message_when_anything_is_added_reads_as_protobuf_reads_it(noise, before) -> None:
    raw = noise + request(LARGE) if before else request(LARGE) + noise
    try:
        wanted = message(NAME).FromString(raw)
    except DecodeError:
        with pytest.raises(Refusal, match="not a ModelInferRequest"):
            inference(NAME, raw)
        return
    parsed, contents = inference(NAME, raw)
    assert [bytes(one) for one in contents] == list(wanted.raw_input_contents)
    del wanted.raw_input_contents[:]
    parsed.ClearField("raw_input_contents")
    assert parsed == wanted
