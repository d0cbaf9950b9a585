"""Owners: who signed, for which CAS, when, and only once."""

import pytest

from securetf.cas.service import AuditDraft
from securetf.errors import LimitError, NotAuthorisedError, NotFoundError
from securetf.keys import OwnerKey, WorkloadKey

from .conftest import SESSION, Cas


class TestSignatures:
    def test_a_request_is_taken_once(self, cas: Cas) -> None:
        cas.create()
        signed = cas.signed()
        cas.service.sessions.read(cas.owner(signed=signed), AuditDraft(action="x"), SESSION)
        with pytest.raises(NotAuthorisedError, match="was used before"):
            cas.service.sessions.read(cas.owner(signed=signed), AuditDraft(action="x"), SESSION)

    def test_a_request_is_taken_once_across_a_restart(self, cas: Cas) -> None:
        cas.create()
        signed = cas.signed()
        cas.service.sessions.read(cas.owner(signed=signed), AuditDraft(action="x"), SESSION)
        cas.restart()
        with pytest.raises(NotAuthorisedError, match="was used before"):
            cas.service.sessions.read(cas.owner(signed=signed), AuditDraft(action="x"), SESSION)

    def test_a_refused_request_is_used_up_too(self, cas: Cas) -> None:
        signed = cas.signed()
        with pytest.raises(NotFoundError):
            cas.service.sessions.read(cas.owner(signed=signed), AuditDraft(action="x"), SESSION)
        cas.create()
        with pytest.raises(NotAuthorisedError, match="was used before"):
            cas.service.sessions.read(cas.owner(signed=signed), AuditDraft(action="x"), SESSION)

    def test_forgotten_requests_are_refused_even_if_the_clock_is_turned_back(self, cas: Cas) -> None:
        cas.create()
        first = cas.signed()
        cas.service.sessions.read(cas.owner(signed=first), AuditDraft(action="x"), SESSION)
        for _ in range(70):
            cas.read()
        cas.clock.turn(601)
        for _ in range(3):
            cas.read()
        assert len(cas.store.keys("nonce", b"")) < 60
        cas.clock.turn(-601)
        with pytest.raises(NotAuthorisedError, match="was used before"):
            cas.service.sessions.read(cas.owner(signed=first), AuditDraft(action="x"), SESSION)

    @pytest.mark.parametrize("apart", [-301, 301])
    def test_a_request_outside_the_window_is_refused(self, cas: Cas, apart: int) -> None:
        created = int(cas.clock.now().timestamp()) + apart
        with pytest.raises(NotAuthorisedError, match="more than 300 s apart"):
            cas.owner(signed=cas.signed(created=created))

    def test_a_request_for_another_cas_is_refused(self, cas: Cas) -> None:
        with pytest.raises(NotAuthorisedError, match="was signed for the CAS abab"):
            cas.owner(signed=cas.signed(cas="ab" * 32))

    def test_another_key_under_the_owners_name_is_refused(self, cas: Cas) -> None:
        class Impostor:
            algorithm = "ed25519"
            key_id = cas.key.key_id

            def sign(self, message: bytes) -> bytes:
                return OwnerKey.generate().sign(message)

        with pytest.raises(NotAuthorisedError, match="does not hold"):
            cas.owner(signed=cas.signed(Impostor()))

    def test_a_workloads_key_is_no_owners(self, cas: Cas) -> None:
        with pytest.raises(NotAuthorisedError, match="is not an owner's key"):
            cas.owner(signed=cas.signed(WorkloadKey.generate()))


class TestAccess:
    def test_a_stranger_learns_nothing(self, packed: Cas) -> None:
        stranger = OwnerKey.generate()
        for call in (
            lambda: packed.read(stranger),
            lambda: packed.grant("packing", "data", stranger),
            lambda: packed.grant("export", "data", stranger),
            lambda: packed.service.sessions.update(
                packed.owner(stranger), AuditDraft(action="x"), SESSION, packed.manifest()
            ),
            lambda: packed.service.audit.page(packed.owner(stranger), AuditDraft(action="x"), SESSION, 0),
            lambda: packed.import_secret("token", b"x", stranger),
        ):
            with pytest.raises(
                NotFoundError, match="there is no session acme/digits, or it is not for this key"
            ):
                call()

    def test_a_reader_may_read_and_nothing_else(self, cas: Cas) -> None:
        reader = OwnerKey.generate()
        cas.create(cas.manifest(access=f'read = ["{reader.key_id}"]'))
        assert cas.read(reader).session == SESSION
        with pytest.raises(NotAuthorisedError, match=r"is not in `\[access\] update`"):
            cas.grant("packing", "data", reader)
        with pytest.raises(NotAuthorisedError, match=r"is not in `\[access\] update`"):
            cas.update(reader, access=f'read = ["{reader.key_id}"]')

    def test_an_updater_that_the_manifest_adds_may_update(self, cas: Cas) -> None:
        other = OwnerKey.generate()
        access = f'update = ["creator", "{other.key_id}"]'
        cas.create(cas.manifest(access=access))
        assert cas.update(other, access=access, secrets__more='kind = "random"\nsize_bytes = 8').version == 2

    def test_a_key_that_an_update_removed_is_out(self, cas: Cas) -> None:
        other = OwnerKey.generate()
        cas.create()
        cas.update(access=f'update = ["{other.key_id}"]\nread = ["{other.key_id}"]')
        with pytest.raises(NotFoundError):
            cas.read()

    def test_refusal_floods_are_counted_instead_of_written(self, cas: Cas) -> None:
        for _ in range(520):
            with pytest.raises(NotAuthorisedError):
                cas.owner(signed=cas.signed(cas="ab" * 32))
        assert cas.store.log_head()[0] == 500
        cas.clock.turn(1)
        with pytest.raises(NotAuthorisedError):
            cas.owner(signed=cas.signed(cas="ab" * 32))
        assert cas.audit()[-1]["suppressed"] == 20


class TestSessionLimit:
    def test_a_key_has_a_limited_number_of_sessions(self, cas: Cas, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("securetf.cas.service.sessions.MAX_SESSIONS_PER_OWNER", 2)
        for number in range(2):
            cas.create(cas.manifest(session=f'name = "acme/s{number}"'))
        with pytest.raises(LimitError, match="has made 2 sessions"):
            cas.create(cas.manifest(session='name = "acme/s2"'))
        cas.create(cas.manifest(session='name = "acme/other"'), OwnerKey.generate())
