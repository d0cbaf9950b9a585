"""A CAS without HTTP: the real service and store on a temporary directory, with a clock that tests turn."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from securetf import manifest as manifests
from securetf.attester.insecure_simulation import (
    SimulatedTdx,
    create_platform,
    load_anchor,
    load_endorsements,
)
from securetf.attester.measurement import software_measurement
from securetf.cas.service import AuditDraft, CasService, Context, load_or_create
from securetf.cas.service.access import OwnerRequest
from securetf.cas.service.connection import NO_EXPORTER, Connection
from securetf.cas.store import Store, create_store, open_store
from securetf.cas.store.anchor import InsecureFileAnchor
from securetf.cas.store.sealing import GENESIS
from securetf.claims import Platform
from securetf.evidence import binding
from securetf.keys import OwnerKey, WorkloadKey
from securetf.keys.signature import SignedRequest, Signer, parse, sign
from securetf.provisioning import (
    HpkeKeyPair,
    Provision,
    VolumeGrant,
    grant_transcript,
    open_grant,
    open_sealed,
    seal_secret,
    secret_transcript,
)
from securetf.verifier import insecure_simulation as simulation
from securetf.wire import (
    AdvanceRequest,
    AttestRequest,
    AttestResponse,
    ChallengeRequest,
    MembersView,
    RenewRequest,
    RenewResponse,
    SessionView,
)
from securetf.wire.rekeying import KeyEndRequest, RekeyResponse
from securetf.wire.restoring import AcceptRootRequest
from support.waiting import HERE, waited

SESSION = "acme/digits"
STORE_ID = b"test store id 16"
ROOT_KEY = bytes(range(32))


class TurnedClock:
    """Stands still until a test turns it."""

    def __init__(self) -> None:
        self.time, self.seconds = datetime.now(UTC), 1000.0

    def now(self) -> datetime:
        return self.time

    def monotonic_s(self) -> float:
        return self.seconds

    def turn(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds


def store_at(directory: Path) -> Store:
    """Make a store with its anchor in `directory`, or open the one that is there."""
    anchor = directory / "anchor"
    if anchor.exists():
        return open_store(
            directory / "data", root_keys={1: ROOT_KEY}, anchor=InsecureFileAnchor(anchor, STORE_ID)
        )
    return create_store(
        directory / "data",
        root_key=ROOT_KEY,
        root_version=1,
        store_id=STORE_ID,
        anchor=InsecureFileAnchor.create(anchor, STORE_ID, GENESIS.digest()),
    )


@dataclass
class Workload:
    """One workload's fresh keys and what it got."""

    tls: WorkloadKey = field(default_factory=WorkloadKey.generate)
    hpke: HpkeKeyPair = field(default_factory=HpkeKeyPair.generate)
    network: WorkloadKey | None = None
    provision: Provision | None = None
    response: AttestResponse | None = None

    def grant(self, name: str) -> VolumeGrant:
        assert self.provision is not None
        return next(grant for grant in self.provision.volumes if grant.name == name)


class Cas:
    """A CAS at work, and what owners and workloads do with it."""

    def __init__(self, directory: Path, platform: Path) -> None:
        self.directory, self.platform = directory, platform
        self.clock = TurnedClock()
        self.key, self.measurement = OwnerKey.generate(), software_measurement().hex()
        self.start()

    def start(self) -> None:
        self.store = store_at(self.directory)
        verifier = simulation.verifier(
            load_anchor(self.platform), load_endorsements(self.platform, self.clock.now())
        )
        self.context = Context(
            store=self.store,
            clock=self.clock,
            identity=load_or_create(self.store, self.clock.now()),
            attester=SimulatedTdx(self.platform, {}),
            verifiers={Platform.INSECURE_SIMULATION: verifier},
            endorsements=lambda: load_endorsements(self.platform, self.clock.now()).to_json(),
        )
        self.service = CasService.of(self.context)

    def restart(self) -> None:
        self.store.close()
        self.start()

    def signed(self, key: Signer | None = None, body: bytes = b"", **changes: Any) -> SignedRequest:
        """A signed request; the service looks at its signature, not at its path."""
        arguments: dict[str, Any] = {
            "method": "POST",
            "target": "/v1/test",
            "body": body,
            "cas": self.context.identity.spki_sha256,
            "created": int(self.clock.now().timestamp()),
            "nonce": os.urandom(16),
            **changes,
        }
        headers = sign(key or self.key, **arguments)
        return parse(method="POST", target="/v1/test", body=body, headers=headers)

    def owner(self, key: OwnerKey | None = None, signed: SignedRequest | None = None) -> OwnerRequest:
        return self.service.owners.authenticate(signed or self.signed(key), AuditDraft(action="test"))

    def manifest(self, **changes: str) -> str:
        """TOML of the session; `changes` replaces the text of whole tables by name, or adds some."""
        tables = {
            "session": f'name = "{SESSION}"',
            "appraisal.insecure_simulation": f'mr_td = ["{self.measurement}"]',
            "secrets.token": 'kind = "random"\nsize_bytes = 32',
            "volumes.data": "",
            "volumes.model": 'writer = "trainer"',
            "workloads.trainer": 'command = ["true"]\nvolumes = { data = "/data:ro", model = "/model:rw" }\n'
            'secrets = { token = "env:TOKEN" }',
            **{name.replace("__", "."): text for name, text in changes.items()},
        }
        return "\n".join(f"[{name}]\n{text}" for name, text in tables.items() if text != "-")

    def create(self, text: str | None = None, key: OwnerKey | None = None) -> SessionView:
        return self.service.sessions.create(
            self.owner(key), AuditDraft(action="session.create"), text or self.manifest()
        )

    def update(self, key: OwnerKey | None = None, **changes: str) -> SessionView:
        current = self.read().manifest_hash
        changes.setdefault("session", f'name = "{SESSION}"\npredecessor = "{current}"')
        return self.service.sessions.update(
            self.owner(key), AuditDraft(action="session.update"), SESSION, self.manifest(**changes)
        )

    def read(self, key: OwnerKey | None = None) -> SessionView:
        return self.service.sessions.read(self.owner(key), AuditDraft(action="session.read"), SESSION)

    def grant(self, kind: str, volume: str, key: OwnerKey | None = None) -> VolumeGrant:
        ephemeral, key = HpkeKeyPair.generate(), key or self.key
        volumes = self.service.volumes
        call = volumes.packing_grant if kind == "packing" else volumes.export_grant
        sealed = call(self.owner(key), AuditDraft(action=kind), SESSION, volume, ephemeral.public)
        transcript = grant_transcript(
            kind=kind,
            session=SESSION,
            volume=volume,
            key_id=key.key_id,
            cas_spki=self.context.identity.spki,
            public=ephemeral.public,
        )
        return open_grant(sealed, ephemeral, transcript)

    def advance(self, grant: VolumeGrant, key: Signer, **changes: Any) -> bytes:
        """Move from the grant's state to a random root; return it."""
        values = {
            "epoch": grant.epoch,
            "seq": grant.seq,
            "root": grant.root,
            "new_seq": grant.seq + 1,
            "new_root": os.urandom(32),
            **changes,
        }
        request = AdvanceRequest(**values)
        draft = AuditDraft(action="volume.advance")
        self.service.volumes.advance(self.signed(key), draft, grant.volume_id, request)
        return request.new_root

    def rekey(self, volume: str = "data", key: OwnerKey | None = None) -> RekeyResponse:
        draft = AuditDraft(action="volume.rekey")
        return self.service.rekeying.begin(self.owner(key), draft, SESSION, volume)

    def end_rekey(self, grant: VolumeGrant, key: Signer, **changes: int) -> None:
        """Say that nothing from the grant's state on needs the older key."""
        request = KeyEndRequest(**{"epoch": grant.epoch, "seq": grant.seq, **changes})
        draft = AuditDraft(action="volume.key-end")
        self.service.rekeying.end(self.signed(key), draft, grant.volume_id, request)

    def accept_root(
        self, seen: VolumeGrant, seq: int, root: bytes, volume: str = "data", key: OwnerKey | None = None
    ) -> None:
        request = AcceptRootRequest(seen_seq=seen.seq, seen_root=seen.root, seq=seq, root=root)
        draft = AuditDraft(action="volume.accept-root")
        self.service.restoring.accept(self.owner(key), draft, SESSION, volume, request)

    def pack(self, volume: str = "data") -> bytes:
        return self.advance(self.grant("packing", volume), self.key)

    def attest_request(
        self,
        workload: Workload,
        text: str | None = None,
        roots: dict[str, bytes] | None = None,
        **changes: Any,
    ) -> AttestRequest:
        """A request with Evidence bound to what it says; `changes` are applied after the Evidence is made."""
        name = changes.pop("named", "trainer")
        manifest = manifests.parse(text or self.read().manifest)
        instance = changes.pop("instance", 0)
        connection = changes.pop("connection", NO_EXPORTER)
        bound = "key" if connection is NO_EXPORTER else "session"
        asked = ChallengeRequest(session=SESSION, workload=name, instance=instance, binding=bound)
        challenge = self.service.attestation.challenge(asked, connection)
        fields: dict[str, Any] = {
            "nonce": changes.pop("nonce", challenge.nonce),
            "tls_spki": workload.tls.spki,
            "hpke_public_key": workload.hpke.public,
            "manifest_hash": manifests.manifest_hash(manifest),
            "network_spki": changes.pop("bound_network", workload.network and workload.network.spki),
        }
        report_data = binding.report_data(
            role=changes.pop("role", binding.Role.WORKLOAD),
            cas_spki=changes.pop("cas_spki", self.context.identity.spki),
            exporter=connection.exporter(bound),
            **fields,
        )
        evidence = SimulatedTdx(self.platform, roots or {}).attest(report_data)
        return AttestRequest(
            **{
                "session": SESSION,
                "workload": name,
                "instance": instance,
                "platform": evidence.platform.value,
                "evidence": evidence.raw,
                "binding": bound,
                **fields,
                **changes,
            }
        )

    def attest(self, *, network: bool = False, **changes: Any) -> Workload:
        workload = Workload(network=WorkloadKey.generate() if network else None)
        request = self.attest_request(workload, **changes)
        return self.send(workload, request)

    def send(
        self, workload: Workload, request: AttestRequest, connection: Connection = NO_EXPORTER
    ) -> Workload:
        workload.response = waited(
            self.service.attestation.attest(request, AuditDraft(action="attest"), HERE, connection)
        )
        transcript = binding.transcript(
            role=binding.Role.WORKLOAD,
            nonce=request.nonce,
            tls_spki=request.tls_spki,
            hpke_public_key=request.hpke_public_key,
            cas_spki=self.context.identity.spki,
            exporter=connection.exporter(request.binding),
            manifest_hash=request.manifest_hash,
            network_spki=request.network_spki,
        )
        workload.provision = open_sealed(workload.response.sealed_provision, workload.hpke, transcript)
        return workload

    def renew(self, workload: Workload, *, signer: Signer | None = None, **changes: Any) -> RenewResponse:
        request = self.attest_request(workload, **changes)
        request = RenewRequest(**structs.asdict(request))
        signed = self.signed(signer or workload.tls)
        return waited(self.service.attestation.renew(signed, request, AuditDraft(action="renew"), HERE))

    def members(self, workload: Workload, name: str = "trainer", instance: int = 0) -> MembersView:
        draft = AuditDraft(action="members")
        return self.service.members.of_member(self.signed(workload.tls), draft, SESSION, name, instance)

    def import_secret(self, name: str, value: bytes, key: OwnerKey | None = None, **changes: str) -> None:
        key = key or self.key
        parts = {"session": SESSION, "secret": name, "key_id": key.key_id, **changes}
        transcript = secret_transcript(cas_spki=self.context.identity.spki, **parts)
        sealed = seal_secret(value, self.context.identity.hpke_key.public, transcript)
        self.service.secrets.put(self.owner(key), AuditDraft(action="secret.import"), SESSION, name, sealed)

    def audit(self) -> list[dict[str, Any]]:
        """All entries, as the log has them."""
        import json  # noqa: PLC0415

        return [json.loads(entry.text) for entry in self.store.log(0, 10_000)[1]]


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("platform") / "INSECURE-SIMULATION"
    create_platform(directory, datetime.now(UTC))
    return directory


@pytest.fixture
def cas(tmp_path: Path, platform: Path) -> Iterator[Cas]:
    running = Cas(tmp_path, platform)
    yield running
    running.store.close()


@pytest.fixture
def packed(cas: Cas) -> Cas:
    """A CAS with the session, and with data in the volume `data`."""
    cas.create()
    cas.pack()
    return cas


@pytest.fixture
def make_store(tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """A function that opens the store in the test's directory; the end closes what is still open."""
    opened: list[Store] = []

    def make() -> Store:
        opened.append(store_at(tmp_path))
        return opened[-1]

    yield make
    for store in opened:
        if store.usable:
            store.close()
