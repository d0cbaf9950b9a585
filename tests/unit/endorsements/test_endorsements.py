"""Collateral and trust anchors as values."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from securetf.attester import development_pki as pki
from securetf.endorsements import Endorsements, TrustAnchors
from securetf.endorsements.dcap import SIZE_LIMIT, strict_json
from securetf.endorsements.trust import spki_digest
from securetf.errors import EndorsementError

NOW = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(scope="module")
def keys() -> pki.DevelopmentPki:
    return pki.create(NOW, platform_id=bytes(16))


@pytest.fixture(scope="module")
def endorsements(keys: pki.DevelopmentPki) -> Endorsements:
    return pki.endorse(keys, NOW)


def test_endorsements_when_written_and_read_then_equal(endorsements: Endorsements) -> None:
    assert Endorsements.from_json(endorsements.to_json()) == endorsements
    assert Endorsements.from_json(endorsements.to_json().encode()) == endorsements


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tcb_info": None}, "tcb_info is not a string"),
        ({"tcb_info": {}}, "tcb_info is not a string"),
        ({"tcb_info": "\ud800"}, "tcb_info is not text"),
        ({"pck_crl": "zz"}, "pck_crl is not hexadecimal"),
        ({"tcb_info_signature": "00" * 63}, "tcb_info_signature has 63 bytes, expected 64"),
        ({"qe_identity_signature": ""}, "qe_identity_signature has 0 bytes"),
        ({"extra": ""}, "exactly the names"),
    ],
)
def test_endorsements_when_a_member_is_wrong_then_names_it(
    endorsements: Endorsements, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EndorsementError, match=reason):
        Endorsements.from_json(json.dumps(json.loads(endorsements.to_json()) | change))


def test_endorsements_when_a_member_is_missing_then_refused(endorsements: Endorsements) -> None:
    members = json.loads(endorsements.to_json())
    del members["pck_crl"]
    with pytest.raises(EndorsementError, match="exactly the names"):
        Endorsements.from_json(json.dumps(members))


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not strict JSON"),
        ("{", "not strict JSON"),
        ('{"a": 1} x', "not strict JSON"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('{"b": [{"a": 1, "a": 1}]}', "'a' stands twice"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "not strict JSON"),
        (b"\xff\xfe", "not strict JSON"),
        (" " * (SIZE_LIMIT + 1), "at most"),
        ("9" * 5000, "not strict JSON"),
    ],
)
def test_json_when_not_strict_then_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(EndorsementError, match=reason):
        strict_json(text, "it")


def test_endorsements_when_json_is_no_object_then_refused() -> None:
    for text in ("[]", '"x"', "null", "5"):
        with pytest.raises(EndorsementError, match="not an object"):
            Endorsements.from_json(text)


def test_endorsements_when_shown_then_no_content_is_printed(endorsements: Endorsements) -> None:
    assert repr(endorsements) == "Endorsements()"


def test_anchors_when_from_a_development_root_then_pin_its_key(keys: pki.DevelopmentPki) -> None:
    pem = keys.root.certificate.public_bytes(Encoding.PEM)
    anchors = TrustAnchors.insecure_simulation(b"INSECURE SIMULATION\n" + pem)
    assert anchors.development
    assert anchors.spki_sha256 == {spki_digest(keys.root.certificate)}
    assert anchors.find(keys.root.certificate)
    assert not anchors.find(keys.pck_ca.certificate)


def test_anchors_when_intels_then_no_development_root_and_one_key() -> None:
    anchors = TrustAnchors.intel()
    assert not anchors.development
    assert [len(pin) for pin in anchors.spki_sha256] == [32]


def test_anchors_when_not_one_self_signed_certificate_then_refused(keys: pki.DevelopmentPki) -> None:
    root = keys.root.certificate.public_bytes(Encoding.PEM)
    ca = keys.pck_ca.certificate.public_bytes(Encoding.PEM)
    for text in (b"", b"nonsense", root + root, ca, root.replace(b"MII", b"MIJ")):
        with pytest.raises(EndorsementError, match="not one self-signed PEM certificate"):
            TrustAnchors.insecure_simulation(text)


def test_anchors_when_the_root_does_not_call_itself_a_simulation_then_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pki, "SIMULATION_MARK", "Acme")
    root = pki.create(NOW, platform_id=bytes(16)).root.certificate
    with pytest.raises(EndorsementError, match="does not name itself INSECURE SIMULATION"):
        TrustAnchors.insecure_simulation(root.public_bytes(Encoding.PEM))
