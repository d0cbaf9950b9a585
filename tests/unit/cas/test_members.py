"""Members: who is one, until when; renewals; volumes of instances; what is recorded."""

import json
from collections.abc import Iterator

import pytest
from cryptography import x509
from msgspec import structs

from securetf import manifest as manifests
from securetf.cas.service import AuditDraft, certificates
from securetf.errors import (
    BindingError,
    ConflictError,
    FencedError,
    ManifestHashError,
    NonceError,
    NotAuthorisedError,
    NotFoundError,
    UsageError,
)
from securetf.keys import OwnerKey, WorkloadKey
from securetf.receipt import attested_spki, ear_digest
from securetf.wire import RenewRequest, RenewResponse, VolumeHead
from support.waiting import HERE, waited

from .conftest import SESSION, Cas, Workload

WORKERS = """command = ["true"]
instances = { minimum = 2, maximum = 3 }
volumes = { own = "/own:rw" }
listen = { grpc = { port = 2222, from = ["chief"] } }
tensorflow_cluster = "training"
"""
CHIEF = """command = ["true"]
listen = { grpc = { port = 2222, from = [] } }
connect = ["trainer:grpc", "ps:grpc"]
tensorflow_cluster = "training"
"""
PS = """command = ["true"]
listen = { grpc = { port = 2222, from = ["chief", "trainer"] } }
connect = ["trainer:grpc"]
tensorflow_cluster = "training"
"""


def tables(lifetime_s: int = 100) -> dict[str, str]:
    """A chief, a parameter server, and 2 to 3 workers called `trainer`, each with a volume of its own."""
    return {
        "network": f"certificate_lifetime_s = {lifetime_s}",
        "volumes.own": 'writer = "trainer"\nper_instance = true',
        "volumes.shard": "per_instance = true",
        "volumes.model": "-",
        "workloads.chief": CHIEF,
        "workloads.ps": PS,
        "workloads.trainer": WORKERS.replace('["chief"]', '["chief", "ps"]')
        + 'connect = ["ps:grpc"]\ntensorflow_task = "worker"',
        "workloads.reader": 'command = ["true"]\nvolumes = { own = "/own:ro" }',
    }


@pytest.fixture
def cluster(cas: Cas) -> Iterator[Cas]:
    cas.create(cas.manifest(**tables()))
    return cas


def leaf(found: Workload | RenewResponse) -> x509.Certificate:
    grant = found
    if isinstance(found, Workload):
        assert found.provision is not None
        grant = found.provision.network
    assert grant is not None
    return x509.load_der_x509_certificate(grant.chain[0])


def generation(found: Workload | RenewResponse) -> int:
    extension = leaf(found).extensions.get_extension_for_oid(certificates.MEMBER_OID).value
    assert isinstance(extension, x509.UnrecognizedExtension)
    return int.from_bytes(extension.value[34:], "big")


class TestAttest:
    def test_without_a_network_key_there_is_no_certificate_and_no_member(self, cluster: Cas) -> None:
        workload = cluster.attest(named="chief")
        assert workload.provision is not None
        assert workload.provision.network is None
        view = cluster.service.members.of_owner(cluster.owner(), AuditDraft(action="members"), SESSION)
        assert view.members == []

    def test_a_certificate_is_for_the_network_key_that_the_evidence_binds(self, cluster: Cas) -> None:
        workload = cluster.attest(named="chief", network=True)
        assert workload.network is not None
        assert leaf(workload).public_key() == workload.network.private.public_key()
        assert workload.provision is not None
        grant = workload.provision.network
        assert grant is not None
        assert grant.lifetime_s == 100
        assert grant.not_after == int(cluster.clock.now().timestamp()) + 100
        assert grant.trust_domain == cluster.context.identity.spki_sha256

    def test_another_network_key_than_the_evidence_binds_is_refused(self, cluster: Cas) -> None:
        with pytest.raises(BindingError, match="report data"):
            cluster.attest(named="chief", network=True, network_spki=WorkloadKey.generate().spki)
        with pytest.raises(BindingError, match="report data"):
            cluster.attest(named="chief", network=True, network_spki=None)

    def test_a_network_key_that_is_the_attested_key_too_is_refused(self, cluster: Cas) -> None:
        workload = Workload()
        request = cluster.attest_request(workload, named="chief", bound_network=workload.tls.spki)
        with pytest.raises(BindingError, match="are the same"):
            cluster.send(workload, request)

    def test_a_network_key_that_is_no_p256_key_is_refused(self, cluster: Cas) -> None:
        with pytest.raises(BindingError, match="is not a P-256 public key"):
            cluster.attest(named="chief", bound_network=b"k" * 91)

    def test_an_instance_that_the_manifest_does_not_have_is_refused(self, cluster: Cas) -> None:
        with pytest.raises(NotFoundError, match="no instance 3 of trainer, only 0 to 2"):
            cluster.attest(network=True, instance=3)

    @pytest.mark.parametrize(
        "endpoint", ["example:1", "192.0.2.1", "192.0.2.1:0", "::1:80", "[192.0.2.1]:80"]
    )
    def test_an_endpoint_that_is_no_address_and_port_is_refused(self, cluster: Cas, endpoint: str) -> None:
        with pytest.raises(UsageError, match="is not ip:port"):
            cluster.attest(named="chief", network=True, endpoint=endpoint)

    def test_an_endpoint_of_ipv6_is_taken(self, cluster: Cas) -> None:
        workload = cluster.attest(named="chief", network=True, endpoint="[2001:db8::1]:15443")
        assert [one.endpoint for one in cluster.members(workload, "chief").members] == ["[2001:db8::1]:15443"]

    def test_each_attestation_of_an_instance_counts_and_survives_a_restart(self, cluster: Cas) -> None:
        assert generation(cluster.attest(named="chief", network=True)) == 1
        assert generation(cluster.attest(named="chief", network=True)) == 2
        assert generation(cluster.attest(network=True)) == 1
        cluster.restart()
        assert generation(cluster.attest(named="chief", network=True)) == 3

    def test_a_refused_attestation_neither_counts_nor_fences(self, cluster: Cas) -> None:
        chief = cluster.attest(named="chief", network=True)
        with pytest.raises(ConflictError, match="was never written"):
            cluster.attest(named="reader", network=True)
        with pytest.raises(NonceError):
            cluster.attest(named="chief", network=True, nonce=b"n" * 32)
        assert [one.generation for one in cluster.members(chief, "chief").members] == [1]

    def test_a_session_of_an_older_release_gets_its_authority_when_needed(self, cluster: Cas) -> None:
        cluster.store.transact(lambda transaction: transaction.delete("authority", SESSION.encode()))
        first = cluster.attest(named="chief", network=True).provision
        second = cluster.attest(network=True).provision
        assert first is not None
        assert second is not None
        assert first.network is not None
        assert second.network is not None
        assert first.network.trust_root == second.network.trust_root

    def test_what_was_released_is_recorded(self, cluster: Cas) -> None:
        workload = cluster.attest(named="chief", network=True, endpoint="192.0.2.1:1")
        entry = cluster.audit()[-1]
        assert (entry["action"], entry["released"]) == ("attest", ["certificate"])
        assert workload.response is not None
        assert entry["details"] == {
            "generation": "1",
            "endpoint": "192.0.2.1:1",
            **noted(workload.response.token),
        }


class TestRenew:
    def test_it_gives_a_later_certificate_of_the_same_generation(self, cluster: Cas) -> None:
        workload = cluster.attest(network=True)
        assert workload.provision is not None
        before = workload.provision.volumes[0].epoch
        cluster.clock.turn(50)
        workload.network = WorkloadKey.generate()
        renewed = cluster.renew(workload, endpoint="192.0.2.9:9")
        assert leaf(renewed).not_valid_after_utc > leaf(workload).not_valid_after_utc
        assert leaf(renewed).public_key() == workload.network.private.public_key()
        assert generation(renewed) == 1
        (member,) = cluster.members(workload).members
        assert member.last_attested_at == member.attested_at + 50
        assert (member.endpoint, member.expires_at) == ("192.0.2.9:9", renewed.not_after)
        assert next(state.epoch for state in cluster.read().volumes if state.name == "own.0") == before

    def test_only_the_latest_attestation_of_an_instance_renews(self, cluster: Cas) -> None:
        first, _ = cluster.attest(network=True), cluster.attest(network=True)
        with pytest.raises(FencedError, match="generation 2: this one is no longer the member"):
            cluster.renew(first)

    def test_who_never_attested_is_refused(self, cluster: Cas) -> None:
        with pytest.raises(NotFoundError, match=f"trainer/0 of {SESSION} has never attested"):
            cluster.renew(Workload(network=WorkloadKey.generate()))

    def test_the_signature_must_be_by_the_attested_key(self, cluster: Cas) -> None:
        workload, other = cluster.attest(network=True), WorkloadKey.generate()
        with pytest.raises(FencedError):
            cluster.renew(workload, signer=other)
        other.key_id = workload.tls.key_id
        with pytest.raises(NotAuthorisedError, match="the signature of"):
            cluster.renew(workload, signer=other)

    def test_evidence_for_another_tls_key_is_refused(self, cluster: Cas) -> None:
        workload = cluster.attest(network=True)
        thief = Workload(network=WorkloadKey.generate())
        with pytest.raises(FencedError):
            cluster.renew(thief, signer=workload.tls)

    def test_without_a_network_key_it_is_refused(self, cluster: Cas) -> None:
        workload = cluster.attest(network=True)
        workload.network = None
        with pytest.raises(UsageError, match="without network key"):
            cluster.renew(workload)

    def test_an_attestation_is_not_replayed_as_a_renewal(self, cluster: Cas) -> None:
        workload = Workload(network=WorkloadKey.generate())
        request = cluster.attest_request(workload)
        cluster.send(workload, request)
        again = RenewRequest(**structs.asdict(request))
        signed, draft = cluster.signed(workload.tls), AuditDraft(action="renew")
        with pytest.raises(NonceError, match="used before"):
            waited(cluster.service.attestation.renew(signed, again, draft, HERE))

    def test_after_an_update_of_the_manifest_it_is_refused_and_recorded(self, cluster: Cas) -> None:
        workload, old = cluster.attest(network=True), cluster.read().manifest
        cluster.update(**tables(lifetime_s=50))
        for text in (old, None):
            with pytest.raises(ManifestHashError):
                cluster.renew(workload, text=text)
            entry = cluster.audit()[-1]
            assert (entry["action"], entry["verdict"], entry["code"]) == ("renew", "refused", "STF-1104")

    def test_between_check_and_decision_an_update_is_noticed(self, cluster: Cas) -> None:
        workload = cluster.attest(network=True)
        request = RenewRequest(**structs.asdict(cluster.attest_request(workload)))
        attestation = cluster.service.attestation
        prove = attestation._prove

        async def slow(*arguments: object) -> object:
            found = await prove(*arguments)
            cluster.update(**tables(lifetime_s=50))
            return found

        attestation._prove = slow
        signed, draft = cluster.signed(workload.tls), AuditDraft(action="renew")
        with pytest.raises(ManifestHashError, match="was replaced while"):
            waited(attestation.renew(signed, request, draft, HERE))


class TestMembers:
    def test_a_cluster_is_ready_when_all_needed_instances_have_valid_certificates(self, cluster: Cas) -> None:
        chief = cluster.attest(named="chief", network=True)
        assert cluster.members(chief, "chief").missing == ["ps/0", "trainer/0", "trainer/1"]
        cluster.attest(named="ps", network=True)
        cluster.attest(network=True)
        view = cluster.members(chief, "chief")
        assert (view.ready, view.missing, view.tf_config) == (False, ["trainer/1"], None)
        cluster.attest(network=True, instance=1)
        view = cluster.members(chief, "chief")
        assert view.ready
        assert view.tf_config is not None
        config = json.loads(view.tf_config)
        assert {task: len(hosts) for task, hosts in config["cluster"].items()} == {
            "chief": 1,
            "ps": 1,
            "worker": 2,
        }
        cluster.attest(network=True, instance=2)
        more = cluster.members(chief, "chief").tf_config
        assert more is not None
        assert len(json.loads(more)["cluster"]["worker"]) == 3
        cluster.clock.turn(101)
        view = cluster.members(chief, "chief")
        assert view.missing == ["chief/0", "ps/0", "trainer/0", "trainer/1"]
        assert len(view.members) == 5
        cluster.renew(chief, named="chief")
        assert cluster.members(chief, "chief").missing == ["ps/0", "trainer/0", "trainer/1"]

    def test_who_is_in_no_cluster_waits_for_nobody(self, cluster: Cas) -> None:
        writer = cluster.attest(network=True)
        cluster.advance(writer.grant("own.0"), writer.tls)
        reader = cluster.attest(named="reader", network=True)
        view = cluster.members(reader, "reader")
        assert (view.ready, view.missing, view.tf_config) == (True, [], None)

    def test_an_owner_who_may_read_sees_all_that_is_missing(self, cluster: Cas) -> None:
        draft = AuditDraft(action="members")
        view = cluster.service.members.of_owner(cluster.owner(), draft, SESSION)
        assert view.missing == ["chief/0", "ps/0", "reader/0", "trainer/0", "trainer/1"]
        with pytest.raises(NotFoundError, match="not for this key"):
            cluster.service.members.of_owner(cluster.owner(OwnerKey.generate()), draft, SESSION)

    def test_another_members_name_does_not_help(self, cluster: Cas) -> None:
        chief = cluster.attest(named="chief", network=True)
        cluster.attest(network=True)
        with pytest.raises(FencedError):
            cluster.members(chief, "trainer")
        with pytest.raises(NotFoundError, match="never attested"):
            cluster.members(chief, "trainer", 1)

    def test_a_request_for_another_cas_or_time_is_refused(self, cluster: Cas) -> None:
        chief = cluster.attest(named="chief", network=True)
        for signed, reason in (
            (cluster.signed(chief.tls, cas="ab" * 32), "was signed for the CAS"),
            (cluster.signed(chief.tls, created=7), "more than 300 s apart"),
        ):
            with pytest.raises(NotAuthorisedError, match=reason):
                cluster.service.members.of_member(signed, AuditDraft(action="members"), SESSION, "chief", 0)

    def test_only_refusals_of_members_are_recorded(self, cluster: Cas) -> None:
        chief = cluster.attest(named="chief", network=True)
        before = len(cluster.audit())
        cluster.members(chief, "chief")
        assert len(cluster.audit()) == before
        cluster.attest(named="chief", network=True)
        with pytest.raises(FencedError):
            cluster.members(chief, "chief")
        assert cluster.audit()[-1]["action"] == "members"

    def test_members_of_another_session_with_a_longer_name_stay_apart(self, cluster: Cas) -> None:
        text = cluster.manifest(**tables()).replace('name = "acme/digits"', 'name = "acme/digits2"')
        cluster.create(text)
        cluster.attest(named="chief", network=True)
        draft = AuditDraft(action="members")
        view = cluster.service.members.of_owner(cluster.owner(), draft, "acme/digits2")
        assert view.members == []
        assert manifests.parse(text).session.name == "acme/digits2"


class TestVolumesOfInstances:
    def test_each_instance_has_its_own_which_stays(self, cluster: Cas) -> None:
        first, second = cluster.attest(network=True), cluster.attest(network=True, instance=1)
        assert first.grant("own.0").key != second.grant("own.1").key
        root = cluster.advance(first.grant("own.0"), first.tls)
        again = cluster.attest(network=True).grant("own.0")
        assert (again.root, again.epoch) == (root, 2)
        assert again.volume_id == first.grant("own.0").volume_id

    def test_owners_pack_and_export_by_instance(self, cluster: Cas) -> None:
        mounted = {"workloads.reader": 'command = ["true"]\nvolumes = { shard = "/shard:ro" }'}
        cluster.update(**tables() | mounted)
        grant = cluster.grant("packing", "shard.0")
        root = cluster.advance(grant, cluster.key)
        assert cluster.grant("export", "shard.0").root == root
        with pytest.raises(NotFoundError, match=r"each instance has its own volume shard"):
            cluster.grant("packing", "shard")
        with pytest.raises(NotFoundError, match=r"has no volume shard\.1"):
            cluster.grant("packing", "shard.1")
        with pytest.raises(ConflictError, match="is written by workload trainer"):
            cluster.grant("packing", "own.0")

    def test_an_update_that_takes_the_writer_away_ends_the_leases_of_instances(self, cluster: Cas) -> None:
        workload = cluster.attest(network=True, instance=2)
        fewer = tables()
        fewer["workloads.trainer"] = fewer["workloads.trainer"].replace("maximum = 3", "maximum = 2")
        cluster.update(**fewer)
        with pytest.raises(FencedError, match="does not hold the lease"):
            cluster.advance(workload.grant("own.2"), workload.tls)

    def test_the_view_of_the_session_names_those_that_exist(self, cluster: Cas) -> None:
        assert [state.name for state in cluster.read().volumes] == ["data"]
        cluster.attest(network=True, instance=1)
        assert [state.name for state in cluster.read().volumes] == ["data", "own.1"]


def noted(token: str) -> dict[str, str]:
    """What the audit log keeps of a token, so that receipts can be traced to it."""
    return {"ear_jti": attested_spki(token)[0], "ear_sha256": ear_digest(token)}


def test_members_when_one_reads_a_followed_volume_tells_it_alone_where_that_stands(cas: Cas) -> None:
    port = 'listen = { grpc = { port = 2222, from = ["server"] } }'
    dial = 'connect = ["trainer:grpc"]'
    changes = {
        "volumes.model": 'writer = "trainer"\nfreshness = "follow"',
        "volumes.plain": 'writer = "trainer"',
        "workloads.trainer": f'command = ["true"]\nvolumes = {{ model = "/m:rw", plain = "/p:rw" }}\n{port}',
        "workloads.server": f'command = ["true"]\nvolumes = {{ model = "/m:ro", plain = "/p:ro" }}\n{dial}',
    }
    cas.create(cas.manifest(**changes))
    writer = cas.attest(network=True)
    for name in ("model", "plain"):
        cas.advance(writer.grant(name), writer.tls)
    server = cas.attest(network=True, named="server")
    before = server.grant("model")
    assert before.freshness == "follow"
    head = VolumeHead(epoch=before.epoch, seq=before.seq, root=before.root)
    assert cas.members(server, "server").volumes == {"model": head}
    root = cas.advance(writer.grant("model"), writer.tls, seq=1, root=before.root, new_seq=2)
    assert cas.members(server, "server").volumes == {"model": structs.replace(head, seq=2, root=root)}
    assert cas.members(writer).volumes == {}
