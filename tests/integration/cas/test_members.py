"""From attestation with a network key to TF_CONFIG, renewal and revocation, at a real CAS process."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import verification
from msgspec import structs

from securetf import manifest as manifests
from securetf.appraisal import ear
from securetf.attester.insecure_simulation import SimulatedTdx
from securetf.attester.measurement import software_measurement
from securetf.cas_client import CasClient, save_trust
from securetf.cas_client.membership import check_proof
from securetf.errors import (
    CasIdentityError,
    FencedError,
    ManifestHashError,
    MeasurementError,
    NotFoundError,
    UsageError,
)
from securetf.keys import WorkloadKey, create_owner_key
from securetf.provisioning import NetworkGrant, Provision
from securetf.wire import DenialItem
from securetf.wire.statement import check_token_key

from .conftest import MAIN, Process

SESSION = "acme/training"
MANIFEST = """
[session]
name = "acme/training"
%s
[appraisal.insecure_simulation]
mr_td = ["%s"]
[network]
certificate_lifetime_s = %d
[volumes.code]
freshness = "pinned"
root = "sha256:%s"
[volumes.checkpoints]
writer = "worker"
per_instance = true
[workloads.worker]
command = ["true"]
volumes = { code = "/app:ro", checkpoints = "/checkpoints:rw" }
instances = { minimum = 2, maximum = 2 }
listen = { grpc = { port = 2222, from = ["worker"] } }
connect = ["worker:grpc"]
tensorflow_cluster = "training"
"""


class Node:
    """One worker's host: its client, its network key, its shield's advertised endpoint."""

    def __init__(self, scene: "Scene", instance: int) -> None:
        self.scene, self.instance, self.endpoint = scene, instance, f"192.0.2.{instance + 1}:15443"
        self.client, self.key = CasClient(scene.trust), WorkloadKey.generate()

    def attester(self, root: bytes | None = None) -> SimulatedTdx:
        return SimulatedTdx(self.scene.cas.platform, {"code": root or self.scene.root})

    def attest(self, text: str | None = None, root: bytes | None = None) -> Provision:
        manifest = manifests.parse(text or self.scene.text)
        _, provision = self.client.provision(
            SESSION, "worker", manifest, self.attester(root), self.instance, self.key.spki, self.endpoint
        )
        return provision

    def renew(self, text: str | None = None) -> NetworkGrant:
        manifest = manifests.parse(text or self.scene.text)
        return self.client.renew(
            SESSION, "worker", manifest, self.attester(), self.instance, self.key.spki, self.endpoint
        )


class Scene:
    """A session with packed code at a CAS, and its owner."""

    def __init__(self, cas: Process, directory: Path) -> None:
        self.cas, self.directory, self.trust = cas, directory, cas.trust()
        self.owner, self.nodes = create_owner_key(directory / "owner.pem"), list[Node]()
        self.client, self.root = CasClient(self.trust), bytes([7]) * 32
        self.text = self.manifest()
        self.client.create_session(self.text, self.owner)
        grant = self.client.packing_grant(SESSION, "code", self.owner)
        self.client.advance(
            grant.volume_id, epoch=grant.epoch, seq=0, root=grant.root, new_seq=1, new_root=self.root
        )

    def manifest(self, lifetime_s: int = 3600) -> str:
        predecessor = ""
        if hasattr(self, "text"):
            predecessor = f'predecessor = "{manifests.hash_text(manifests.parse(self.text))}"'
        return MANIFEST % (predecessor, software_measurement().hex(), lifetime_s, self.root.hex())

    def update(self, lifetime_s: int) -> str:
        old, self.text = self.text, self.manifest(lifetime_s)
        self.client.update_session(self.text, self.owner)
        return old

    def node(self, instance: int) -> Node:
        self.nodes.append(Node(self, instance))
        return self.nodes[-1]

    def refusals(self) -> list[dict[str, Any]]:
        page = self.client.audit(SESSION, self.owner)
        entries = [json.loads(line.entry) for line in page.entries if line.entry]
        return [entry for entry in entries if entry["verdict"] == "refused"]

    def command(self, *words: str) -> str:
        trust = self.directory / "cas.json"
        save_trust(self.trust, trust)
        arguments = [*MAIN, *words, "--cas", str(trust), "--key", str(self.directory / "owner.pem")]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def scene(own: Process, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(own.start(), tmp_path)
    yield made
    for client in (made.client, *(node.client for node in made.nodes)):
        client.close()


def verified(grant: NetworkGrant) -> list[str]:
    """Verify leaf against root as a server does its client, with an independent library; return its names."""
    root, leaf = (x509.load_der_x509_certificate(der) for der in (grant.trust_root, grant.chain[0]))
    policy = verification.PolicyBuilder().store(verification.Store([root])).time(datetime.now(UTC))
    found = policy.build_client_verifier().verify(leaf, [])
    assert found.subjects is not None
    return [str(name.value) for name in found.subjects]


def openssl_verifies(directory: Path, grant: NetworkGrant, purpose: str) -> bool:
    for name, der in (("root.pem", grant.trust_root), ("leaf.pem", grant.chain[0])):
        (directory / name).write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))
    arguments = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem", "leaf.pem"]
    shown = subprocess.run(arguments, cwd=directory, capture_output=True, text=True, check=False)
    return shown.returncode == 0 and "leaf.pem: OK" in shown.stdout


def test_member_when_it_attests_again_for_a_token_alone_keeps_its_certificate(scene: Scene) -> None:
    node = scene.node(0)
    manifest = manifests.parse(scene.text)
    first, provision = node.client.provision(
        SESSION, "worker", manifest, node.attester(), 0, node.key.spki, node.endpoint
    )
    (before,) = node.client.members(SESSION).members
    second = node.client.refresh(SESSION, manifest, node.attester())
    (after,) = node.client.members(SESSION).members
    assert (after.expires_at, after.endpoint) == (before.expires_at, before.endpoint)
    assert provision.network is not None
    proof = node.client.prove_cas()
    key = check_token_key(
        proof.token_key,
        cas=scene.trust.spki_sha256,
        audit_public_key=bytes.fromhex(scene.trust.audit_public_key),
    )
    told = [
        ear.check_insecure_simulation(
            token,
            keys={ear.key_id(key): key},
            issuer=f"securetf-cas:{scene.trust.spki_sha256}",
            audience=f"securetf-session:{SESSION}",
            nonce=None,
            now=datetime.now(UTC),
        )
        for token in (first, second)
    ]
    assert told[0].token_id != told[1].token_id
    assert told[0].confirmation_jwk == told[1].confirmation_jwk
    old = scene.update(lifetime_s=50)
    with pytest.raises(ManifestHashError):
        node.client.refresh(SESSION, manifests.parse(old), node.attester())
    with pytest.raises(CasIdentityError, match="other keys than the trust file"):
        check_proof(proof, structs.replace(scene.trust, audit_public_key="00" * 32))


def test_workers_when_all_attested_are_a_cluster_until_the_manifest_is_replaced(scene: Scene) -> None:
    first, second = scene.node(0), scene.node(1)
    provision = first.attest()
    grant = provision.network
    assert grant is not None
    assert verified(grant) == [f"spiffe://{scene.trust.spki_sha256}/{SESSION}/worker/0"]
    assert openssl_verifies(scene.directory, grant, "sslserver")
    assert openssl_verifies(scene.directory, grant, "sslclient")
    assert {one.name for one in provision.volumes} == {"code", "checkpoints.0"}

    view = first.client.members(SESSION)
    assert (view.ready, view.missing, view.tf_config) == (False, ["worker/1"], None)

    second.attest()
    view = first.client.members(SESSION)
    assert (view.ready, view.missing) == (True, [])
    assert [(one.instance, one.endpoint, one.generation) for one in view.members] == [
        (0, "192.0.2.1:15443", 1),
        (1, "192.0.2.2:15443", 1),
    ]
    expected = manifests.parse(scene.text)
    assert view.manifest_hash == manifests.hash_text(expected)
    assert view.tf_config is not None
    config = json.loads(view.tf_config)
    assert config["task"] == {"type": "worker", "index": 0}
    assert len(config["cluster"]["worker"]) == 2
    second_config = second.client.members(SESSION).tf_config
    assert second_config is not None
    assert json.loads(second_config)["cluster"] == config["cluster"]

    first.key = WorkloadKey.generate()  # a renewal may be for a new network key
    renewed = first.renew()
    assert verified(renewed) == verified(grant)
    assert renewed.trust_root == grant.trust_root

    old = scene.update(lifetime_s=60)
    for refused in (lambda: first.client.members(SESSION), lambda: first.renew(old), first.renew):
        with pytest.raises(ManifestHashError, match="current in acme/training is"):
            refused()
    view = scene.client.members(SESSION, scene.owner)
    assert (view.members, view.missing, view.tf_config) == ([], ["worker/0", "worker/1"], None)


def test_worker_with_an_older_manifest_or_changed_code_never_joins_and_the_log_says_why(scene: Scene) -> None:
    old = scene.update(lifetime_s=60)
    with pytest.raises(ManifestHashError):
        scene.node(0).attest(old)
    with pytest.raises(MeasurementError, match="rtmr3"):
        scene.node(0).attest(root=bytes([8]) * 32)
    with pytest.raises(NotFoundError, match="no instance 2 of worker"):
        scene.node(2).attest()
    reasons = [entry["reason"] for entry in scene.refusals() if entry["action"] == "attest"]
    assert len(reasons) == 3
    for reason, said in zip(reasons, ("was given Manifest sha256:", "rtmr3", "no instance 2"), strict=True):
        assert said in reason
    assert scene.client.members(SESSION, scene.owner).members == []


def test_worker_when_started_again_fences_the_one_before(scene: Scene) -> None:
    first, again = scene.node(0), scene.node(0)
    first.attest()
    again.attest()
    for refused in (first.renew, lambda: first.client.members(SESSION)):
        with pytest.raises(FencedError, match="another process attested as worker/0 since, generation 2"):
            refused()
    assert [one.generation for one in again.client.members(SESSION).members] == [2]
    again.renew()
    assert [one.generation for one in again.client.members(SESSION).members] == [2]


def test_member_when_it_left_is_missing_until_its_place_is_taken_again(scene: Scene) -> None:
    first, second = scene.node(0), scene.node(1)
    first.attest()
    second.attest()
    assert first.client.members(SESSION).ready
    with pytest.raises(UsageError, match="provisioned no workload"):
        scene.client.leave(SESSION)

    second.client.leave(SESSION)
    view = first.client.members(SESSION)
    assert (view.ready, view.missing, view.tf_config) == (False, ["worker/1"], None)

    again = scene.node(1)
    again.attest()
    assert first.client.members(SESSION).ready
    with pytest.raises(FencedError):  # the process that left cannot make its successor leave
        second.client.leave(SESSION)
    assert first.client.members(SESSION).ready
    entries = scene.client.audit(SESSION, scene.owner).entries
    told = [
        entry for line in entries if line.entry and (entry := json.loads(line.entry))["action"] == "leave"
    ]
    assert [(one["workload"], one["instance"], one["verdict"]) for one in told] == [
        ("worker", 1, "granted"),
        ("worker", 1, "refused"),
    ]


def test_members_when_the_cas_starts_again_are_the_same(scene: Scene) -> None:
    node = scene.node(0)
    before = node.attest().network
    view = node.client.members(SESSION)
    port = scene.cas.port
    assert scene.cas.stop() == 0
    arguments = scene.cas.command(f"127.0.0.1:{port}")
    scene.cas.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert scene.cas.process.stdout is not None
    scene.cas.process.stdout.readline()
    assert node.client.members(SESSION) == view
    after = node.renew()
    assert before is not None
    assert after.trust_root == before.trust_root


def test_denials_when_reported_are_in_the_audit_log(scene: Scene) -> None:
    node = scene.node(0)
    with pytest.raises(UsageError, match="provisioned no workload"):
        node.client.report_denials(SESSION, [])
    node.attest()
    denial = DenialItem(
        time_s=7,
        direction="outbound",
        process="12 \x1b[31mpython" + "x" * 100,
        destination="198.51.100.1:80",
        reason="not in the Manifest",
    )
    node.client.report_denials(SESSION, [denial, denial], dropped=3)
    (entry,) = scene.refusals()
    assert (entry["action"], entry["workload"], entry["suppressed"]) == ("network.denied", "worker", 3)
    assert entry["reason"] == "not in the Manifest"
    assert entry["details"]["destination"] == "198.51.100.1:80"
    assert entry["details"]["count"] == "2"
    assert entry["details"]["process"].startswith("12 ?[31mpython")
    assert len(entry["details"]["process"]) == 64


def test_members_command_when_called_shows_each_with_its_last_attestation(scene: Scene) -> None:
    scene.node(1).attest()
    shown = scene.command("session", "members", SESSION)
    assert "acme/training: 1 members" in shown
    assert "worker/1: last attested 20" in shown
    assert "valid until" in shown
    assert "generation 1, at 192.0.2.2:15443" in shown
    assert "missing: worker/0" in shown
    read = json.loads(scene.command("session", "members", SESSION, "--json"))
    assert (read["ready"], read["missing"], read["simulated"]) == (False, ["worker/0"], True)
    assert read["members"][0]["endpoint"] == "192.0.2.2:15443"


def test_volume_of_an_instance_when_it_attests_is_its_own(scene: Scene) -> None:
    grants = {}
    for number in (0, 1):
        (grant,) = (one for one in scene.node(number).attest().volumes if one.writable)
        grants[number] = grant
        assert grant.name == f"checkpoints.{number}"
    assert grants[0].key != grants[1].key
    assert grants[0].volume_id != grants[1].volume_id
    names = {state.name for state in scene.client.read_session(SESSION, scene.owner).volumes}
    assert names == {"code", "checkpoints.0", "checkpoints.1"}
