"""What a service proves, with a fake CAS, relay and clock: when it is renewed, what the program finds."""

import base64
import json
import os
import stat
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from securetf import manifest as manifests
from securetf.errors import CasUnreachableError, LaunchError
from securetf.keys import WorkloadKey
from securetf.launcher.identity import IdentityDirectory
from securetf.launcher.plan import plan
from securetf.launcher.proof import Proof
from securetf.provisioning import NetworkGrant, Provision, VolumeGrant
from securetf.wire import CasEvidenceResponse, decode
from securetf.wire.statement import (
    Attestation,
    CasProof,
    MountedVolume,
    TokenKey,
    read_delegation,
    token_key_text,
)

TEXT = """
[session]
name = "acme/digits"
[volumes.models]
[workloads.server]
command = ["serve"]
receipts = %s
volumes = { models = "/models:ro" }
[workloads.server.outside]
rest = { port = 8501, public = 443 }
"""
NETWORK = NetworkGrant(
    trust_domain="ab" * 32, chain=[b"leaf"], trust_root=b"root", not_after=0, lifetime_s=3600
)
GRANT = VolumeGrant(
    name="models", volume_id=b"v" * 16, key=bytes(32), key_version=1, epoch=3, seq=4, root=b"r" * 32,
    writable=False, freshness="group", mount_path="/models", chunk_size=65536,
)  # fmt: skip


class World:
    """CAS, relay and clock in one."""

    def __init__(self, directory: Path, *, receipts: bool = True) -> None:
        self.key, self.audit = WorkloadKey.generate(), Ed25519PrivateKey.generate()
        self.now, self.calls = 1000.0, list[str]()
        self.statements = list[tuple[dict, dict, bytes]]()
        self.broken: Exception | None = None
        manifest = manifests.parse(TEXT % str(receipts).lower())
        planned = plan(manifest, "server", host_environment={}, volumes=directory)
        self.directory = directory / "identity"
        self.proof = Proof(
            planned, self, self, clock=lambda: self.now, now=lambda: self.now, directory=str(self.directory)
        )
        provision = Provision(
            session="acme/digits", workload="server", instance=0, manifest_hash=planned.manifest_hash,
            volumes=[GRANT], secrets={}, network=NETWORK,
        )  # fmt: skip
        self.hash = "sha256:" + planned.manifest_hash.hex()
        self.proof.begin(provision, NETWORK)

    def token(self, *, renew: bool) -> str:
        if self.broken:
            raise self.broken
        self.calls.append("renew" if renew else "first")
        return f"ear.{len(self.calls)}"

    def attested_key(self) -> WorkloadKey:
        return self.key

    def prove_cas(self) -> CasProof:
        self.calls.append("cas")
        text = token_key_text("ab" * 32, self.key.spki)
        return CasProof(
            url="https://cas:8443",
            nonce=bytes(32),
            evidence=CasEvidenceResponse(
                platform="tdx", evidence=b"quote", tls_spki=bytes(91), hpke_public_key=bytes(1216),
                audit_public_key=bytes(32), endorsements="{}",
            ),
            token_key=TokenKey(spki=self.key.spki, signature=self.audit.sign(text)),
        )  # fmt: skip

    def set_statement(self, public: str, claims: str, key: bytes) -> None:
        self.statements.append((json.loads(public), json.loads(claims), key))

    def turn(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.proof.tick()

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_relay_is_given_all_but_the_certificate_and_the_nonce(world: World) -> None:
    public, claims, key = world.statements[0]
    assert set(public) == {"version", "ear", "trust_root", "cas"}
    assert public["ear"] == "ear.2"
    assert claims["manifest_hash"] == world.hash
    assert claims["volumes"] == {
        "models": {"volume_id": "76" * 16, "epoch": 3, "seq": 4, "root": "72" * 32, "writable": False}
    }
    assert set(claims) == {
        "session", "workload", "instance", "manifest_hash", "volumes", "receipt_key",
    }  # fmt: skip
    assert load_der_private_key(key, None).public_key() == world.key.private.public_key()


def test_the_program_finds_files_of_its_own_that_fit_together(world: World) -> None:
    assert world.proof.environment() == {b"SECURETF_IDENTITY": str(world.directory).encode()}
    assert stat.S_IMODE(world.directory.stat().st_mode) == 0o700
    names = {"attestation.json", "volumes.json", "receipt-key.pem", "receipt-delegation.jws"}
    assert set(os.listdir(world.directory)) == names
    assert {stat.S_IMODE((world.directory / name).stat().st_mode) for name in names} == {0o400}
    attestation = decode(world.read("attestation.json"), Attestation)
    assert (attestation.ear, attestation.certificate) == ("ear.2", [b"leaf"])
    volumes = msgspec.json.decode(world.read("volumes.json"), type=dict[str, MountedVolume])
    assert (volumes["models"].mount, volumes["models"].protection) == ("/models", "encrypted")
    key = load_pem_private_key(world.read("receipt-key.pem"), None)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    delegation = read_delegation(
        world.read("receipt-delegation.jws").decode(), world.key.private.public_key()
    )
    assert delegation.receipt_key == spki
    assert (delegation.manifest_hash, delegation.iat, delegation.exp) == (world.hash, 1000, 4600)
    assert base64.b64decode(world.statements[0][1]["receipt_key"]) == spki


def test_without_receipts_there_is_a_statement_and_no_directory(tmp_path: Path) -> None:
    world = World(tmp_path, receipts=False)
    assert world.proof.environment() == {}
    assert not world.directory.exists()
    assert world.statements[0][1]["receipt_key"] is None


def test_the_ear_is_renewed_long_before_it_expires_and_the_cas_hourly(world: World) -> None:
    world.turn(119)
    assert world.calls == ["cas", "first"]
    world.turn(1)
    assert world.calls == ["cas", "first", "renew"]
    assert world.statements[-1][0]["ear"] == "ear.3"
    assert decode(world.read("attestation.json"), Attestation).ear == "ear.3"
    world.turn(3480)
    assert world.calls.count("renew") == 30
    assert world.calls.count("cas") == 2


def test_a_renewal_that_fails_is_tried_again_soon(world: World) -> None:
    world.broken = CasUnreachableError("nobody listens", "start the CAS")
    world.turn(119)
    with pytest.raises(CasUnreachableError):
        world.turn(1)
    world.turn(4)
    with pytest.raises(CasUnreachableError):
        world.turn(1)
    world.broken = None
    world.turn(5)
    assert world.calls == ["cas", "first", "renew"]


def test_a_new_certificate_is_in_the_attestation_at_once(world: World) -> None:
    world.proof.install(msgspec.structs.replace(NETWORK, chain=[b"next"]))
    assert decode(world.read("attestation.json"), Attestation).certificate == [b"next"]
    assert world.calls == ["cas", "first"]


def test_a_link_that_the_program_laid_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("whole")
    directory = IdentityDirectory(None, str(tmp_path / "identity"))
    for name in ("attestation.json", ".attestation.json.new"):
        (tmp_path / "identity" / name).symlink_to(victim)
    directory.write("attestation.json", b"new")
    assert victim.read_text() == "whole"
    assert not (tmp_path / "identity/attestation.json").is_symlink()
    (tmp_path / "identity" / ".attestation.json.new").mkdir()
    with pytest.raises(LaunchError, match=r"attestation\.json of the program's identity"):
        directory.write("attestation.json", b"newer")
    directory.close()


def test_the_directory_of_another_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "identity").mkdir()
    with pytest.raises(LaunchError, match="File exists"):
        IdentityDirectory(None, str(tmp_path / "identity"))
