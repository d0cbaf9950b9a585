"""Re-keying at the CAS: who begins it, who gets which key, and when the older one is forgotten."""

import msgspec
import pytest

from securetf.cas.service.rows import VolumeRow
from securetf.errors import ConflictError, FencedError, NotAuthorisedError, NotFoundError
from securetf.keys import OwnerKey

from .conftest import Cas


@pytest.fixture
def before(packed: Cas) -> tuple[Cas, bytes]:
    """A CAS with a packed volume, and the key of the volume."""
    return packed, packed.grant("export", "data").key


class TestBegin:
    def test_the_next_epoch_gets_a_new_key_and_everybody_the_older_one_beside_it(
        self, before: tuple[Cas, bytes]
    ) -> None:
        cas, old = before
        assert (cas.rekey().key_version, cas.rekey().writer) == (2, None)
        for kind in ("export", "packing"):
            grant = cas.grant(kind, "data")
            assert (grant.key_version, grant.key_since, grant.older_key) == (2, 2, old)
            assert grant.key != old
        assert grant.epoch >= grant.key_since  # the writer's
        reader = cas.attest().grant("data")
        assert (reader.key, reader.older_key) == (grant.key, old)

    def test_a_second_call_while_one_is_on_its_way_changes_nothing(self, before: tuple[Cas, bytes]) -> None:
        cas, old = before
        cas.rekey()
        grant = cas.grant("packing", "data")
        assert cas.rekey().key_version == 2
        again = cas.grant("packing", "data")
        assert (again.key, again.key_since, again.older_key) == (grant.key, grant.key_since, old)

    def test_both_keys_are_durable(self, before: tuple[Cas, bytes]) -> None:
        cas, old = before
        cas.rekey()
        grant = cas.grant("export", "data")
        cas.restart()
        again = cas.grant("export", "data")
        assert (again.key, again.older_key) == (grant.key, old)

    def test_a_running_writer_goes_on_and_is_not_fenced(self, cas: Cas) -> None:
        cas.create()
        cas.pack()
        trainer = cas.attest()
        root = cas.advance(trainer.grant("model"), trainer.tls)
        assert cas.rekey("model").writer == "trainer"
        cas.advance(trainer.grant("model"), trainer.tls, seq=1, root=root, new_seq=2)
        assert cas.attest().grant("model").older_key == trainer.grant("model").key

    def test_a_volume_that_was_never_written_is_refused(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(ConflictError, match="was never written"):
            cas.rekey()

    def test_a_key_that_may_not_update_the_session_is_refused(self, packed: Cas) -> None:
        reader = OwnerKey.generate()
        packed.update(access=f'read = ["creator", "{reader.key_id}"]')
        with pytest.raises(NotAuthorisedError, match="update"):
            packed.rekey(key=reader)
        with pytest.raises(NotFoundError, match="there is no session"):
            packed.rekey(key=OwnerKey.generate())
        assert packed.grant("export", "data").key_version == 1


class TestEnd:
    def test_the_writer_of_the_new_key_ends_it_and_nobody_gets_the_older_key_again(
        self, before: tuple[Cas, bytes]
    ) -> None:
        cas, _ = before
        cas.rekey()
        grant = cas.grant("packing", "data")
        cas.end_rekey(grant, cas.key)
        cas.end_rekey(grant, cas.key)  # the answer was lost
        cas.restart()
        for kind in ("export", "packing"):
            later = cas.grant(kind, "data")
            assert (later.key, later.key_version, later.key_since) == (grant.key, 2, grant.key_since)
            assert later.older_key is None
        assert cas.rekey().key_version == 3

    def test_a_writer_from_before_the_new_key_cannot_end_it(self, packed: Cas) -> None:
        grant = packed.grant("packing", "data")
        packed.rekey()
        with pytest.raises(ConflictError, match="key version 2 of volume data begins with epoch 3"):
            packed.end_rekey(grant, packed.key)
        assert packed.grant("export", "data").older_key is not None

    def test_a_fenced_writer_cannot_end_it(self, packed: Cas) -> None:
        packed.rekey()
        first = packed.grant("packing", "data")
        packed.grant("packing", "data")
        with pytest.raises(FencedError, match="is in epoch 3, this writer has 2"):
            packed.end_rekey(first, packed.key)

    def test_a_state_that_is_not_anchored_does_not_end_it(self, packed: Cas) -> None:
        packed.rekey()
        grant = packed.grant("packing", "data")
        with pytest.raises(ConflictError, match="is at sequence 1, the writer sealed 2 anew"):
            packed.end_rekey(grant, packed.key, seq=2)

    def test_a_key_without_the_lease_cannot_end_it(self, packed: Cas) -> None:
        packed.rekey()
        grant = packed.grant("packing", "data")
        with pytest.raises(FencedError, match="does not hold the lease"):
            packed.end_rekey(grant, OwnerKey.generate())
        assert packed.grant("export", "data").older_key is not None

    def test_a_forged_signature_in_the_holders_name_is_refused(self, packed: Cas) -> None:
        packed.rekey()
        grant = packed.grant("packing", "data")

        class Impostor:
            algorithm = "ed25519"
            key_id = packed.key.key_id

            def sign(self, message: bytes) -> bytes:
                return OwnerKey.generate().sign(message)

        with pytest.raises(NotAuthorisedError, match="does not hold"):
            packed.end_rekey(grant, Impostor())


def test_a_row_of_a_release_without_key_versions_is_read_as_a_first_key() -> None:
    raw = {
        "volume_id": "AA==", "session": "a/b", "name": "v", "key": "AA==", "key_version": 1, "epoch": 3,
        "seq": 1, "root": "AA==", "chunk_size": 65536, "lease": None,
    }  # fmt: skip
    row = msgspec.json.decode(msgspec.json.encode(raw), type=VolumeRow)
    assert (row.key_since, row.older_key) == (0, None)
