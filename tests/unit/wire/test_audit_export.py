"""An exported audit log is checked without the CAS; each way to change it is noticed."""

import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from securetf.errors import AuditError
from securetf.wire import AuditEntryLine, AuditHead
from securetf.wire.audit import START, ExportedHead, check_export, follow, head_text

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
CAS = "ab" * 32
NOT_SIGNED = "is not signed by this CAS's audit key"
TEXTS = ['{"verdict":"granted"}', '{"verdict":"refused"}', '{"verdict":"granted","of":"another session"}']


def export(length: int | None = None, key: Ed25519PrivateKey = KEY) -> list[str]:
    lines = [
        AuditEntryLine(seq=seq, leaf=hashlib.sha256(text.encode()).digest(), entry=None if seq == 2 else text)
        for seq, text in enumerate(TEXTS)
    ]
    digest = follow(START, 0, lines)
    fields = {"length": length or len(lines), "digest": digest, "time": "2026-11-22T20:00:00.000Z"}
    signature = key.sign(head_text(**fields, simulated=True, cas=CAS))  # type: ignore[arg-type]
    head = AuditHead(**fields, simulated=True, signature=signature)  # type: ignore[arg-type]
    return [msgspec.json.encode(line).decode() for line in (*lines, ExportedHead(cas=CAS, head=head))]


def test_a_good_export_is_summed_up() -> None:
    summary = check_export(export(), public_key=PUBLIC)
    assert (summary.length, summary.visible, summary.refused, summary.simulated) == (3, 2, 1, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines[:-1], "ends after 3 entries without its signed head"),
        (lambda lines: lines[:0], "ends after 0 entries"),
        (lambda lines: lines[1:], "audit entry 1 stands where 0 belongs"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "audit entry 1 stands where 0 belongs"),
        (lambda lines: [*lines[:2], lines[3]], "the export has 2 entries"),
        (
            lambda lines: [lines[0].replace("granted", "refused"), *lines[1:]],
            "text of audit entry 0 was changed",
        ),
        (lambda lines: [*lines, lines[0]], "goes on after its signed head"),
        (lambda lines: [*lines[:3], lines[3].replace(CAS, "cd" * 32)], NOT_SIGNED),
        (lambda lines: [*lines[:3], lines[3].replace("20:00", "21:00")], NOT_SIGNED),
        (lambda lines: [*lines[:3], lines[3].replace("true", "false")], NOT_SIGNED),
        (lambda lines: ["{}", *lines], "line 1 of the export is not an audit line"),
        (lambda lines: [lines[0][:20], *lines[1:]], "line 1 of the export is not an audit line"),
        (lambda lines: ["x" * 70000, *lines], "line 1 of the export is too long"),
    ],
)
def test_a_changed_export_is_refused(change: object, reason: str) -> None:
    with pytest.raises(AuditError, match=reason):
        check_export(change(export()), public_key=PUBLIC)  # type: ignore[operator]


def test_a_digest_in_place_of_another_is_refused() -> None:
    lines = export()
    lines[2] = msgspec.json.encode(AuditEntryLine(seq=2, leaf=bytes(32), entry=None)).decode()
    with pytest.raises(AuditError, match="the signed head is of 3 entries"):
        check_export(lines, public_key=PUBLIC)


def test_another_cas_s_signature_is_refused() -> None:
    with pytest.raises(AuditError, match="is not signed by this CAS's audit key"):
        check_export(export(key=Ed25519PrivateKey.generate()), public_key=PUBLIC)
