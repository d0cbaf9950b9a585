"""Roots that an owner chose, and enrolments as JSON."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.endorsements import TrustAnchors
from securetf.endorsements.tpm import KnownAk
from securetf.errors import EndorsementError
from support.authority import issue

KNOWN = KnownAk(name=b"\0\x0b" + bytes(32), ek_sha256=bytes(32), valid_until=datetime(2027, 1, 1, tzinfo=UTC))


def test_roots_when_chosen_then_those_are_pinned_and_no_other() -> None:
    one, two, other = issue("one"), issue("two"), issue("other")
    pem = b"".join(root.certificate.public_bytes(Encoding.PEM) for root in (one, two))
    anchors = TrustAnchors.chosen(pem)
    assert anchors.find(one.certificate)
    assert anchors.find(two.certificate)
    assert not anchors.find(other.certificate)
    assert not anchors.development


def test_roots_when_unreadable_or_of_a_simulation_then_refused() -> None:
    for pem in (b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(EndorsementError, match="not PEM certificates"):
            TrustAnchors.chosen(pem)
    simulated = issue("INSECURE SIMULATION Root CA").certificate.public_bytes(Encoding.PEM)
    with pytest.raises(EndorsementError, match="names itself INSECURE SIMULATION"):
        TrustAnchors.chosen(simulated)


def test_built_in_roots_when_listed_then_one_each_and_different() -> None:
    anchors = [TrustAnchors.intel(), TrustAnchors.aws_nitro(), TrustAnchors.google_tpm()]
    assert len(frozenset().union(*(one.spki_sha256 for one in anchors))) == 3
    assert not any(one.development for one in anchors)


def test_enrolment_when_written_and_read_then_the_same() -> None:
    assert KnownAk.from_json(KNOWN.to_json()) == KNOWN


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "00"},
        {"name": "xx"},
        {"name": 7},
        {"ek_sha256": "00" * 31},
        {"valid_until": "2027-01-01T00:00:00"},
        {"valid_until": "tomorrow"},
        {"extra": 1},
    ],
)
def test_enrolment_when_one_value_is_odd_then_refused(changes: dict[str, Any]) -> None:
    text = json.dumps(json.loads(KNOWN.to_json()) | changes)
    with pytest.raises(EndorsementError, match="the enrolment cannot be used"):
        KnownAk.from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "7", "null", '{"name": "", "name": ""}'])
def test_enrolment_when_no_such_object_then_refused(text: str) -> None:
    with pytest.raises(EndorsementError, match="the enrolment"):
        KnownAk.from_json(text)
