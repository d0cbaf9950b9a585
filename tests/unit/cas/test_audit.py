"""The audit log: every decision, and only what a reader may see of it."""

import pytest

from securetf.cas.service import AuditDraft
from securetf.errors import ConflictError, NotFoundError
from securetf.keys import OwnerKey
from securetf.wire import AuditPage
from securetf.wire.audit import START, check_head, follow

from .conftest import SESSION, Cas


def page(cas: Cas, session: str = SESSION, key: OwnerKey | None = None, first: int = 0) -> AuditPage:
    return cas.service.audit.page(cas.owner(key), AuditDraft(action="audit.read"), session, first)


def test_each_decision_is_an_entry_refusals_included(packed: Cas) -> None:
    packed.attest()
    with pytest.raises(ConflictError):
        packed.create()
    with pytest.raises(NotFoundError):
        packed.read(OwnerKey.generate())
    seen = [(entry["action"], entry["verdict"]) for entry in packed.audit()]
    assert seen == [
        ("session.create", "granted"),
        ("packing", "granted"),
        ("volume.advance", "granted"),
        ("session.read", "granted"),
        ("attest", "granted"),
        ("session.create", "refused"),
        ("session.read", "refused"),
    ]
    attest = packed.audit()[4]
    assert attest["measurement"] == packed.measurement
    assert attest["details"]["volume:data"].startswith("1/1/")
    assert all(entry["simulated"] for entry in packed.audit())


def test_the_chain_leads_to_the_signed_head(packed: Cas) -> None:
    got = page(packed)
    assert got.head.length == len(got.entries)
    assert follow(START, 0, got.entries) == got.head.digest
    check_head(
        got.head, cas=packed.context.identity.spki_sha256, public_key=packed.context.identity.audit_public_key
    )


def test_entries_of_other_sessions_come_as_digests(packed: Cas) -> None:
    other = OwnerKey.generate()
    packed.create(packed.manifest(session='name = "rival/plans"'), other)
    mine, theirs = page(packed), page(packed, "rival/plans", other)
    assert follow(START, 0, theirs.entries) == theirs.head.digest
    assert "acme" not in repr([line.entry for line in theirs.entries])
    assert "rival" not in repr([line.entry for line in mine.entries])
    assert [line.leaf for line in mine.entries] == [line.leaf for line in theirs.entries][: len(mine.entries)]


def test_a_page_from_the_middle_continues_the_chain(packed: Cas) -> None:
    got = page(packed, first=2)
    assert got.entries[0].seq == 2
    assert follow(got.previous, 2, got.entries) == got.head.digest


def test_the_log_survives_a_restart(packed: Cas) -> None:
    before = packed.audit()
    packed.restart()
    assert packed.audit() == before


def test_each_entry_of_a_session_names_it(packed: Cas) -> None:
    packed.update()
    packed.read()
    packed.service.sessions.history(packed.owner(), AuditDraft(action="session.history"), SESSION)
    packed.grant("export", "data")
    packed.attest()
    assert {entry.get("session") for entry in packed.audit()} == {SESSION}
