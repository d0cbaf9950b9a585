"""The binding transcript: docs/formats/evidence-binding.md and the code agree; each field counts."""

import hashlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from securetf.errors import BindingError
from securetf.evidence.binding import EXPORTER_LABEL, Role, report_data, transcript

DOCUMENT = Path(__file__).parents[3] / "docs/formats/evidence-binding.md"
FIELDS: dict[str, Any] = {
    "role": Role.WORKLOAD,
    "nonce": bytes(range(32)),
    "tls_spki": b"T" * 91,
    "hpke_public_key": b"H" * 1216,
    "cas_spki": b"C" * 91,
    "exporter": b"E" * 32,
    "manifest_hash": b"M" * 32,
    "network_spki": b"N" * 91,
}


VECTORS = re.findall(r"^```\n(role: .*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", VECTORS, ids=["without network key", "with network key"])
def test_transcript_when_made_from_the_documents_vector_then_equals_it(text: str) -> None:
    vector = dict(re.findall(r"^([a-z_ ]+): +([0-9a-z]+)$", text, re.MULTILINE))

    def value(name: str) -> bytes | None:
        return None if vector[name] == "none" else bytes.fromhex(vector[name])

    names = set(FIELDS) - {"role"}
    fields: dict[str, Any] = {"role": Role(vector["role"]), **{name: value(name) for name in names}}
    assert transcript(**fields).hex() == vector["transcript"]
    assert report_data(**fields).hex() == vector["report_data"]
    assert EXPORTER_LABEL in DOCUMENT.read_text()


def test_report_data_when_made_then_is_sha512_of_the_transcript() -> None:
    assert report_data(**FIELDS) == hashlib.sha512(transcript(**FIELDS)).digest()


def test_report_data_when_any_field_differs_then_differs() -> None:
    changes: dict[str, list[Any]] = {
        "role": [Role.CAS],
        "nonce": [b"n" * 32],
        "tls_spki": [b"T" * 90, b"t" * 91],
        "hpke_public_key": [b"h" * 1216],
        "cas_spki": [b"c" * 91],
        "exporter": [None, b"e" * 32],
        "manifest_hash": [None, b"m" * 32],
        "network_spki": [None, b"n" * 91],
    }
    variants = [FIELDS | {name: value} for name, values in changes.items() for value in values]
    made = [report_data(**fields) for fields in [FIELDS, *variants]]
    for one, other in itertools.combinations(made, 2):
        assert one != other


def test_transcript_when_bytes_move_between_fields_then_differs() -> None:
    moved = FIELDS | {"tls_spki": b"T" * 90, "hpke_public_key": b"T" + b"H" * 1216}
    assert transcript(**moved) != transcript(**FIELDS)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("nonce", b"", "nonce has 0 bytes, expected 32"),
        ("nonce", b"n" * 31, "nonce has 31 bytes"),
        ("nonce", bytes(32), "nonce is all zero"),
        ("tls_spki", b"", "TLS key has 0 bytes"),
        ("hpke_public_key", b"k" * 31, "HPKE key has 31 bytes"),
        ("cas_spki", b"k" * 5000, "CAS key has 5000 bytes"),
        ("exporter", b"", "TLS exporter has 0 bytes"),
        ("exporter", bytes(32), "TLS exporter is all zero"),
        ("manifest_hash", b"none", "Manifest hash has 4 bytes"),
        ("network_spki", b"none", "network key has 4 bytes"),
    ],
)
def test_transcript_when_a_field_has_the_wrong_size_or_was_never_filled_then_refused(
    field: str, value: bytes, reason: str
) -> None:
    with pytest.raises(BindingError, match=reason):
        transcript(**FIELDS | {field: value})
