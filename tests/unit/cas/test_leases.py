"""How long states are leased that readers were told."""

import pytest

from securetf.cas.service import leases
from securetf.cas.service.leases import LEASE_S, Leases
from securetf.wire import AdvanceRequest

from .conftest import Cas

VOLUME, OTHER = b"v" * 16, b"o" * 16


def test_lease_ends_so_long_after_the_last_answer_that_named_the_state() -> None:
    given = Leases()
    given.told(VOLUME, 5, 0.0)
    given.told(VOLUME, 5, 50.0)
    assert given.before(VOLUME, 6, 60.5) == LEASE_S - 10
    assert given.before(VOLUME, 5, 60.5) == 0, "of states before that one nobody was told"
    assert given.before(OTHER, 6, 60.5) == 0
    assert given.before(VOLUME, 6, 50.0 + LEASE_S) == 0


def test_older_leases_go_on_when_a_newer_state_is_told_and_are_not_prolonged_by_it() -> None:
    given = Leases()
    given.told(VOLUME, 5, 0.0)
    given.told(VOLUME, 7, 100.0)
    assert given.before(VOLUME, 7, 110.0) == LEASE_S - 110
    assert given.before(VOLUME, 8, 110.0) == LEASE_S - 10
    assert given.before(VOLUME, 7, 0.0 + LEASE_S) == 0


def test_state_that_an_owner_went_back_to_is_leased_too() -> None:
    given = Leases()
    given.told(VOLUME, 9, 0.0)
    given.told(VOLUME, 3, 100.0)
    assert given.before(VOLUME, 4, 110.0) == LEASE_S - 10


def test_volumes_beyond_the_limit_are_forgotten_those_first_that_were_told_longest_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leases, "MAX_REMEMBERED", 2)
    given = Leases()
    for number, name in enumerate((VOLUME, OTHER, VOLUME, b"n" * 16)):
        given.told(name, 1, float(number))
    assert [given.before(name, 2, 4.0) > 0 for name in (VOLUME, OTHER, b"n" * 16)] == [True, False, True]


def test_reader_that_is_told_a_state_has_a_lease_that_the_writer_hears_of_until_it_ends(cas: Cas) -> None:
    port = 'listen = { grpc = { port = 2222, from = ["server"] } }'
    changes = {
        "volumes.model": 'writer = "trainer"\nfreshness = "follow"',
        "workloads.trainer": f'command = ["true"]\nvolumes = {{ model = "/m:rw" }}\n{port}',
        "workloads.server": 'command = ["true"]\nvolumes = { model = "/m:ro" }\nconnect = ["trainer:grpc"]',
    }
    cas.create(cas.manifest(**changes))
    writer = cas.attest(network=True)
    grant = writer.grant("model")
    roots = [grant.root]

    def leased() -> int:
        """Move the volume on by one; return what the writer is told."""
        seq = len(roots) - 1
        roots.append(cas.advance(grant, writer.tls, seq=seq, root=roots[-1], new_seq=seq + 1))
        request = AdvanceRequest(
            epoch=grant.epoch, seq=seq, root=roots[-2], new_seq=seq + 1, new_root=roots[-1]
        )
        return cas.service.volumes.advanced(grant.volume_id, request).leased_s

    assert leased() == 0, "nobody reads it yet"
    server = cas.attest(network=True, named="server")
    cas.clock.turn(20)
    assert leased() == LEASE_S - 20, "the grant itself is the first lease"
    cas.members(server, "server")
    cas.clock.turn(100)
    assert leased() == LEASE_S - 100, "of the newer state; that on the older one has ended"
    assert leased() == LEASE_S - 100, "nobody was told the state between"
    cas.clock.turn(LEASE_S)
    assert leased() == 0
    cas.members(server, "server")
    cas.restart()
    assert leased() == 0, "leases are not kept: a reader without one gets an error, never other data"
