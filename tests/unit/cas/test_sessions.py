"""Sessions: chains of Manifests, and what the CAS makes for them."""

import pytest

from securetf import manifest as manifests
from securetf.cas.service import AuditDraft
from securetf.cas.service.rows import SecretRow, VolumeRow, find, secret_key
from securetf.errors import (
    ConflictError,
    FencedError,
    ManifestPredecessorError,
    ManifestSyntaxError,
    ManifestValueError,
    NotFoundError,
)

from .conftest import SESSION, Cas


def secret(cas: Cas, name: str) -> SecretRow | None:
    return find(cas.store, SecretRow, secret_key(SESSION, name))


def volume(cas: Cas, name: str) -> VolumeRow:
    volume_id = next(state.volume_id for state in cas.read().volumes if state.name == name)
    row = find(cas.store, VolumeRow, bytes.fromhex(volume_id))
    assert row is not None
    return row


class TestCreate:
    def test_it_makes_keys_and_secrets_and_shows_none(self, cas: Cas) -> None:
        view = cas.create()
        token = secret(cas, "token")
        assert token is not None
        assert len(token.value) == 32
        assert len(volume(cas, "data").key) == 32
        shown = repr(view).encode()
        assert token.value not in shown
        assert volume(cas, "data").key.hex().encode() not in shown
        assert [(state.name, state.seq, state.epoch) for state in view.volumes] == [
            ("data", 0, 0),
            ("model", 0, 0),
        ]

    def test_a_taken_name_is_refused(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(ConflictError, match="there is a session acme/digits already"):
            cas.create()

    def test_a_first_version_with_a_predecessor_is_refused(self, cas: Cas) -> None:
        text = cas.manifest(session=f'name = "{SESSION}"\npredecessor = "sha256:{"0" * 64}"')
        with pytest.raises(ManifestPredecessorError, match="names a predecessor"):
            cas.create(text)

    @pytest.mark.parametrize(
        ("text", "kind"), [("[session", ManifestSyntaxError), ("[session]\nnmae = 1", ManifestValueError)]
    )
    def test_a_bad_manifest_is_refused(self, cas: Cas, text: str, kind: type[Exception]) -> None:
        with pytest.raises(kind):
            cas.create(text)
        assert cas.audit()[-1]["verdict"] == "refused"


class TestUpdate:
    def test_versions_chain_by_hash(self, cas: Cas) -> None:
        first = cas.create()
        second = cas.update(secrets__more='kind = "random"\nsize_bytes = 8')
        assert second.manifest_hash == manifests.hash_text(manifests.parse(second.manifest))
        history = cas.service.sessions.history(cas.owner(), AuditDraft(action="x"), SESSION)
        assert [(v.version, v.manifest_hash, v.predecessor) for v in history.versions] == [
            (1, first.manifest_hash, None),
            (2, second.manifest_hash, first.manifest_hash),
        ]
        assert {v.signed_by for v in history.versions} == {cas.key.key_id}

    def test_a_stale_predecessor_is_refused_naming_both(self, cas: Cas) -> None:
        first = cas.create()
        cas.update(secrets__more='kind = "random"\nsize_bytes = 8')
        with pytest.raises(ManifestPredecessorError, match=f"{first.manifest_hash}, current is sha256:"):
            cas.update(session=f'name = "{SESSION}"\npredecessor = "{first.manifest_hash}"')

    def test_a_manifest_of_another_session_is_refused(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(
            ManifestValueError, match="the Manifest is of acme/other, the update is of acme/digits"
        ):
            cas.update(session='name = "acme/other"')

    def test_an_unknown_session_is_refused(self, cas: Cas) -> None:
        with pytest.raises(NotFoundError):
            cas.service.sessions.update(cas.owner(), AuditDraft(action="x"), SESSION, cas.manifest())

    def test_keys_and_random_secrets_stay(self, cas: Cas) -> None:
        cas.create()
        key, value = volume(cas, "data").key, secret(cas, "token")
        cas.update(volumes__more="")
        assert (volume(cas, "data").key, secret(cas, "token")) == (key, value)

    def test_a_volume_that_comes_back_has_its_key_and_state(self, cas: Cas) -> None:
        cas.create()
        root = cas.pack()
        key = volume(cas, "data").key
        only_model = 'command = ["true"]\nvolumes = { model = "/model:rw" }'
        cas.update(volumes__data="-", workloads__trainer=only_model)
        cas.update()
        assert (volume(cas, "data").key, volume(cas, "data").root) == (key, root)

    def test_changing_the_writer_ends_the_lease(self, cas: Cas) -> None:
        cas.create()
        grant = cas.grant("packing", "data")
        cas.update(
            volumes__data='writer = "trainer"',
            workloads__trainer='command = ["true"]\nvolumes = { data = "/data:rw", model = "/model:rw" }',
        )
        with pytest.raises(FencedError, match="does not hold the lease"):
            cas.advance(grant, cas.key)

    def test_state_survives_a_restart(self, packed: Cas) -> None:
        before = packed.read()
        packed.restart()
        assert packed.read() == before
