"""The strict CBOR reader: each refusal, and the examples of RFC 8949 appendix A that Evidence uses."""

from typing import Any

import pytest

from securetf.errors import MalformedEvidenceError
from securetf.evidence import cbor

EXAMPLES: list[tuple[str, Any]] = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("20", -1),
    ("3822", -35),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("4401020304", b"\1\2\3\4"),
    ("62c3bc", "\u00fc"),
    ("80", ()),
    ("83010203", (1, 2, 3)),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": (2, 3)}),
    ("d20a", cbor.Tagged(18, 10)),
]


@pytest.mark.parametrize(("text", "item"), EXAMPLES)
def test_example_of_the_rfc_when_read_and_written_then_the_same(text: str, item: Any) -> None:
    assert cbor.decode(bytes.fromhex(text)) == item
    assert cbor.encode(item).hex() == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ends inside an item"),
        ("18", "ends inside an item"),
        ("4401", "ends inside an item"),
        ("0000", "1 bytes follow the item"),
        ("1817", "shortest form"),
        ("190018", "shortest form"),
        ("1a0000ffff", "shortest form"),
        ("1b00000000ffffffff", "shortest form"),
        ("5f4101ff", "indefinite length"),
        ("7f6161ff", "indefinite length"),
        ("9f01ff", "indefinite length"),
        ("bf0102ff", "indefinite length"),
        ("f93c00", "a float"),
        ("fb3ff199999999999a", "a float"),
        ("f7", "simple value 23"),
        ("f818", "a float, an indefinite length or reserved"),
        ("1c", "reserved"),
        ("ff", "reserved"),
        ("61ff", "not UTF-8"),
        ("a201000100", "stands twice"),
        ("a141006161", "neither an integer nor a text"),
        ("a1f400", "neither an integer nor a text"),
        ("9b7fffffffffffffff", "more than bytes are left"),
        ("bb7fffffffffffffff", "more than bytes are left"),
        ("5b7fffffffffffffff", "ends inside an item"),
        ("81" * 9 + "00", "nested more than 8 deep"),
        ("d2" * 9 + "00", "nested more than 8 deep"),
        ("990400" + "00" * 1024, "more than 1024 items"),
    ],
)
def test_decode_when_not_strict_then_refused(text: str, reason: str) -> None:
    with pytest.raises(MalformedEvidenceError, match=reason):
        cbor.decode(bytes.fromhex(text))


def test_open_map_when_allowed_then_only_maps_may_be_open() -> None:
    assert cbor.decode_with_open_maps(bytes.fromhex("bf6161bf0102ffff")) == {"a": {1: 2}}
    for text, reason in (
        ("bf6161", "ends inside"),
        ("bf616101", "ends inside"),
        ("bf01020103ff", "stands twice"),
        ("9f01ff", "indefinite length"),
        ("bf0102ff00", "1 bytes follow"),
        ("bf01bf01bf01bf01bf01bf01bf01bf01bf", "nested more than 8 deep"),
    ):
        with pytest.raises(MalformedEvidenceError, match=reason):
            cbor.decode_with_open_maps(bytes.fromhex(text))
