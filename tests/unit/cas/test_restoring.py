"""Going back to an older root at the CAS: who may, what it fences, and what counts no more."""

import os

import pytest

from securetf.errors import ConflictError, FencedError, NotAuthorisedError, NotFoundError
from securetf.keys import OwnerKey
from securetf.provisioning import VolumeGrant

from .conftest import SESSION, Cas


@pytest.fixture
def moved(packed: Cas) -> tuple[Cas, VolumeGrant]:
    """A CAS whose volume has gone on, and its state before."""
    before = packed.grant("export", "data")
    packed.pack()
    return packed, before


class TestAccept:
    def test_the_volume_stands_at_the_older_state_in_a_new_epoch_beyond_which_only_later_ones_count(
        self, moved: tuple[Cas, VolumeGrant]
    ) -> None:
        cas, before = moved
        seen = cas.grant("export", "data")
        assert seen.kept_since == 0
        cas.accept_root(seen, before.seq, before.root)
        cas.restart()
        for grant in (cas.grant("export", "data"), cas.attest().grant("data")):
            assert (grant.seq, grant.root) == (before.seq, before.root)
            assert grant.kept_since == grant.epoch == seen.epoch + 1
        writer = cas.grant("packing", "data")
        assert writer.epoch == seen.epoch + 2
        cas.advance(writer, cas.key)

    def test_the_writer_of_before_is_fenced(self, packed: Cas) -> None:
        writer = packed.grant("packing", "data")
        root = packed.advance(writer, packed.key)
        packed.accept_root(packed.grant("export", "data"), writer.seq, writer.root)
        with pytest.raises(FencedError, match="does not hold the lease"):
            packed.advance(writer, packed.key, seq=writer.seq + 1, root=root, new_seq=writer.seq + 2)

    def test_a_state_that_was_written_to_since_it_was_seen_stays(
        self, moved: tuple[Cas, VolumeGrant]
    ) -> None:
        cas, before = moved
        with pytest.raises(ConflictError, match=r"is at 2/[0-9a-f]{64}, the request saw 1/"):
            cas.accept_root(before, before.seq, os.urandom(32))
        assert cas.grant("export", "data").seq == 2

    def test_the_present_state_and_an_empty_one_are_none_to_go_back_to(
        self, moved: tuple[Cas, VolumeGrant]
    ) -> None:
        cas, _ = moved
        seen = cas.grant("export", "data")
        for seq, root in ((seen.seq, seen.root), (0, bytes(32))):
            with pytest.raises(ConflictError, match="is no older state of volume data"):
                cas.accept_root(seen, seq, root)

    def test_a_key_that_may_not_update_the_session_is_refused(self, moved: tuple[Cas, VolumeGrant]) -> None:
        cas, before = moved
        reader = OwnerKey.generate()
        cas.update(access=f'read = ["creator", "{reader.key_id}"]')
        seen = cas.grant("export", "data")
        with pytest.raises(NotAuthorisedError, match="update"):
            cas.accept_root(seen, before.seq, before.root, key=reader)
        with pytest.raises(NotFoundError, match="there is no session"):
            cas.accept_root(seen, before.seq, before.root, key=OwnerKey.generate())
        assert cas.grant("export", "data").root == seen.root

    def test_the_audit_log_has_who_went_from_where_to_where(self, moved: tuple[Cas, VolumeGrant]) -> None:
        cas, before = moved
        seen = cas.grant("export", "data")
        cas.accept_root(seen, before.seq, before.root)
        entry = next(one for one in reversed(cas.audit()) if one["action"] == "volume.accept-root")
        assert entry["session"] == SESSION
        assert entry["details"] == {
            "volume": "data",
            "from": f"{seen.seq}/{seen.root.hex()}",
            "seq": str(before.seq),
            "root": before.root.hex(),
        }
