"""Volumes: who gets a key, who may advance, and from which state."""

import pytest

from securetf.errors import ConflictError, FencedError, LimitError, NotAuthorisedError, NotFoundError
from securetf.keys import OwnerKey, WorkloadKey

from .conftest import Cas


class TestPackingGrant:
    def test_it_raises_the_epoch_and_fences_the_writer_before(self, cas: Cas) -> None:
        cas.create()
        first = cas.grant("packing", "data")
        second = cas.grant("packing", "data")
        assert (first.epoch, second.epoch, second.writable) == (1, 2, True)
        with pytest.raises(FencedError, match="is in epoch 2, this writer has 1"):
            cas.advance(first, cas.key)
        cas.advance(second, cas.key)

    def test_the_raised_epoch_is_durable_before_the_key_is_out(self, cas: Cas) -> None:
        cas.create()
        cas.grant("packing", "data")
        cas.restart()
        assert cas.grant("packing", "data").epoch == 2

    def test_another_owner_takes_the_lease_over(self, cas: Cas) -> None:
        other = OwnerKey.generate()
        cas.create(cas.manifest(access=f'update = ["creator", "{other.key_id}"]'))
        mine = cas.grant("packing", "data")
        theirs = cas.grant("packing", "data", other)
        with pytest.raises(FencedError, match="does not hold the lease"):
            cas.advance(mine, cas.key)
        cas.advance(theirs, other)

    def test_a_volume_that_a_workload_writes_is_not_packed(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(ConflictError, match="is written by workload trainer"):
            cas.grant("packing", "model")

    def test_an_unknown_volume_is_named(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(NotFoundError, match="has no volume nonsuch"):
            cas.grant("packing", "nonsuch")

    def test_the_last_epoch_is_the_last(self, cas: Cas, monkeypatch: pytest.MonkeyPatch) -> None:
        cas.create()
        monkeypatch.setattr("securetf.cas.service.volumes._MAX_EPOCH", 1)
        cas.grant("packing", "data")
        with pytest.raises(LimitError, match="has used all epochs"):
            cas.grant("packing", "data")


class TestExportGrant:
    def test_an_owner_reads_what_owners_pack(self, packed: Cas) -> None:
        grant = packed.grant("export", "data")
        assert (grant.writable, grant.seq, grant.epoch) == (False, 1, 1)

    def test_what_a_workload_writes_is_only_for_keys_in_export(self, packed: Cas) -> None:
        with pytest.raises(NotAuthorisedError, match="is not in `export` of volume model"):
            packed.grant("export", "model")

    def test_a_key_in_export_reads_the_workloads_volume(self, cas: Cas) -> None:
        auditor = OwnerKey.generate()
        cas.create(
            cas.manifest(
                access=f'read = ["{auditor.key_id}"]',
                volumes__model=f'writer = "trainer"\nexport = ["{auditor.key_id}"]',
            )
        )
        cas.pack()
        trainer = cas.attest()
        root = cas.advance(trainer.grant("model"), trainer.tls)
        assert cas.grant("export", "model", auditor).root == root

    def test_a_volume_that_was_never_written_is_not_exported(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(ConflictError, match="was never written"):
            cas.grant("export", "data")


class TestAdvance:
    def test_the_state_moves_and_stays_moved(self, cas: Cas) -> None:
        cas.create()
        root = cas.pack()
        cas.restart()
        state = cas.read().volumes[0]
        assert (state.seq, state.root) == (1, root)

    def test_a_repetition_of_the_same_step_succeeds(self, cas: Cas) -> None:
        cas.create()
        grant = cas.grant("packing", "data")
        root = cas.advance(grant, cas.key)
        cas.advance(grant, cas.key, new_root=root)
        assert cas.read().volumes[0].seq == 1

    def test_a_step_from_an_older_state_is_refused_naming_both(self, cas: Cas) -> None:
        cas.create()
        grant = cas.grant("packing", "data")
        root = cas.advance(grant, cas.key)
        with pytest.raises(ConflictError, match=f"is at 1/{root.hex()}, the writer came from 0/{'0' * 64}"):
            cas.advance(grant, cas.key)

    def test_a_step_that_does_not_count_up_is_refused(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(ConflictError, match="does not follow 0"):
            cas.advance(cas.grant("packing", "data"), cas.key, new_seq=0)

    def test_an_epoch_of_the_future_is_refused(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(FencedError, match="is in epoch 1, this writer has 2"):
            cas.advance(cas.grant("packing", "data"), cas.key, epoch=2)

    def test_a_key_without_the_lease_is_refused(self, cas: Cas) -> None:
        cas.create()
        with pytest.raises(FencedError, match="does not hold the lease"):
            cas.advance(cas.grant("packing", "data"), OwnerKey.generate())

    def test_a_forged_signature_in_the_holders_name_is_refused(self, cas: Cas) -> None:
        cas.create()
        grant = cas.grant("packing", "data")

        class Impostor:
            algorithm = "ed25519"
            key_id = cas.key.key_id

            def sign(self, message: bytes) -> bytes:
                return OwnerKey.generate().sign(message)

        with pytest.raises(NotAuthorisedError, match="does not hold"):
            cas.advance(grant, Impostor())

    def test_an_attested_workload_advances_until_the_next_one_attests(self, packed: Cas) -> None:
        first = packed.attest()
        root = packed.advance(first.grant("model"), first.tls)
        second = packed.attest()
        assert (second.grant("model").root, second.grant("model").epoch) == (root, 2)
        with pytest.raises(FencedError, match="does not hold the lease"):
            packed.advance(first.grant("model"), first.tls, seq=1, root=root, new_seq=2)
        packed.advance(second.grant("model"), second.tls)

    def test_a_writer_that_was_fenced_is_refused_each_time_and_its_refusals_are_recorded(
        self, packed: Cas
    ) -> None:
        first = packed.attest()
        root = packed.advance(first.grant("model"), first.tls)  # from now on it is known by its key
        second = packed.attest()
        for _ in range(2):
            with pytest.raises(FencedError, match="does not hold the lease"):
                packed.advance(first.grant("model"), first.tls, seq=1, root=root, new_seq=2)
        refused = [one for one in packed.audit() if one["verdict"] == "refused"]
        assert [one["actor"] for one in refused] == 2 * [first.tls.key_id]
        packed.advance(second.grant("model"), second.tls)

    def test_a_forged_signature_is_refused_after_a_genuine_one_of_the_same_holder(self, packed: Cas) -> None:
        writer = packed.attest()
        grant = writer.grant("model")
        root = packed.advance(grant, writer.tls)

        class Impostor:
            algorithm = writer.tls.algorithm
            key_id = writer.tls.key_id

            def sign(self, message: bytes) -> bytes:
                return WorkloadKey.generate().sign(message)

        with pytest.raises(NotAuthorisedError, match="does not hold"):
            packed.advance(grant, Impostor(), seq=1, root=root, new_seq=2)
