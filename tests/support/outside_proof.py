"""What a service proves to clients outside, made by the tests: real keys, and a statement that can lie.

It stands in for CAS, launcher and relay together: what it signs is what those would sign, and each part can
be made wrong by itself.
"""

import hashlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from securetf.appraisal import ear
from securetf.cas.service import certificates
from securetf.cas.service.rows import AuthorityRow
from securetf.cas_client.trust import CasTrust, save_trust
from securetf.claims import Platform
from securetf.identity import SpiffeId
from securetf.keys.jws import sign_compact
from securetf.keys.workload import WorkloadKey
from securetf.wire.messages import CasEvidenceResponse
from securetf.wire.statement import (
    BINDING_TYPE,
    Attestation,
    Binding,
    CasProof,
    Statement,
    TokenKey,
    VolumeProof,
    token_key_text,
)

SOFTWARE, OTHER_SOFTWARE = "01" * 48, "02" * 48
ROOT, OTHER_ROOT = "aa" * 32, "bb" * 32
MANIFEST, OTHER_MANIFEST = bytes.fromhex("1f" * 32), bytes.fromhex("2f" * 32)


@dataclass(frozen=True)
class Cas:
    """The keys of a CAS, as its identity row holds them."""

    tls: WorkloadKey = field(default_factory=WorkloadKey.generate)
    audit: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    token: WorkloadKey = field(default_factory=WorkloadKey.generate)
    simulated: bool = False

    @property
    def spki_sha256(self) -> str:
        return hashlib.sha256(self.tls.spki).hexdigest()

    def trust(self, path: Path) -> Path:
        save_trust(
            CasTrust(
                version=1,
                url="https://cas.example:8443",
                spki_sha256=self.spki_sha256,
                audit_public_key=self.audit.public_key().public_bytes_raw().hex(),
                hpke_public_key=bytes(1216),
                platform="insecure_simulation" if self.simulated else "tdx",
                simulated=self.simulated,
                measurement="00" * 48,
                verified=[],
                verified_at="2026-11-23T00:00:00Z",
            ),
            path,
        )
        return path

    def proof(self) -> CasProof:
        spki = self.token.spki
        return CasProof(
            url="https://cas.example:8443",
            nonce=bytes(32),
            evidence=CasEvidenceResponse(
                platform="insecure_simulation" if self.simulated else "tdx",
                evidence=b"quote",
                tls_spki=self.tls.spki,
                hpke_public_key=bytes(1216),
                audit_public_key=self.audit.public_key().public_bytes_raw(),
                endorsements="",
            ),
            token_key=TokenKey(spki=spki, signature=self.audit.sign(token_key_text(self.spki_sha256, spki))),
        )


@dataclass(frozen=True)
class Says:
    """What the service proves; each field may be made wrong. age_s: of the attestation result; binding_age_s:
    of what the attested key signed.
    """

    session: str = "acme/digits"
    workload: str = "server"
    instance: int = 0
    measurement: str = SOFTWARE
    simulated: bool = False
    status: str = "affirming"
    tcb: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    root: str = ROOT
    epoch: int = 3
    writable: bool = False
    manifest: bytes = MANIFEST
    certificate_manifest: bytes | None = None
    age_s: float = 1.0
    binding_age_s: int = 0
    audience: str = "securetf-session:acme/digits"
    binding_type: str = BINDING_TYPE
    binding_session: str | None = None
    nonce: bytes | None = None
    network_spki: bytes | None = None
    binding_key: WorkloadKey | None = None
    receipt_key: bytes | None = None
    certificate_days: float = 1.0
    pcr0: str = ""  # of a TPM beside the machine


class Member:
    """One attested process: its keys, its certificate, its statements."""

    def __init__(self, cas: Cas, says: Says | None = None, authority: AuthorityRow | None = None) -> None:
        self.cas, self.says = cas, says or Says()
        self.attested, self.network = WorkloadKey.generate(), WorkloadKey.generate()
        now = datetime.now(UTC)
        self.authority = authority or certificates._make(cas.spki_sha256, now)
        self.leaf = self.issue(now)

    def issue(self, now: datetime) -> bytes:
        said = self.says
        return certificates.issue(
            self.authority,
            spiffe_id=self.spiffe_id,
            key=self.network.private.public_key(),
            manifest_hash=said.certificate_manifest or said.manifest,
            generation=1,
            now=now,
            end=int((now + timedelta(days=said.certificate_days)).timestamp()),
        )

    def rotate(self) -> None:
        """Take another network key, as a renewal does."""
        self.network = WorkloadKey.generate()
        self.leaf = self.issue(datetime.now(UTC))

    @property
    def spiffe_id(self) -> SpiffeId:
        said = self.says
        return SpiffeId(self.cas.spki_sha256, said.session, said.workload, said.instance)

    def ear(self) -> str:
        said, now = self.says, datetime.now(UTC)
        platform = Platform.INSECURE_SIMULATION if said.simulated else Platform.TDX
        names = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
        claims = SimpleNamespace(
            simulated=said.simulated,
            platform=platform,
            platform_id=bytes(16),
            tcb_status=said.tcb,
            advisories=said.advisories,
            tcb_evaluation_number=18,
            registers={"mr_td": bytes.fromhex(said.measurement), **dict.fromkeys(names, bytes(48))},
            valid_until=now + timedelta(days=1),
            properties={},
        )
        status = "contraindicated" if said.simulated else said.status
        others = [_result(self._tpm(now), "contraindicated")] if said.pcr0 else []
        return ear.issue(
            _result(claims, status),
            key=ear.SigningKey.of(self.cas.token.private),
            issuer=f"securetf-cas:{self.cas.spki_sha256}",
            audience=said.audience,
            subject=str(self.spiffe_id),
            nonce=os.urandom(32),
            confirmation_jwk=ear.confirmation_jwk(self.attested.private.public_key()),
            binding=ear.Binding.KEY,
            token_id=os.urandom(16).hex(),
            now=now - timedelta(seconds=said.age_s),
            others=others,
        )

    def _tpm(self, now: datetime) -> SimpleNamespace:
        return SimpleNamespace(
            platform=Platform.TPM2,
            platform_id=bytes(32),
            tcb_status="NotReported",
            advisories=(),
            tcb_evaluation_number=0,
            registers={"pcr0": bytes.fromhex(self.says.pcr0)},
            valid_until=now + timedelta(days=1),
            properties={},
        )

    def attestation(self) -> Attestation:
        return Attestation(
            ear=self.ear(),
            certificate=[self.leaf],
            trust_root=self.authority.certificate,
            cas=self.cas.proof(),
        )

    def statement(self, nonce: bytes) -> bytes:
        said = self.says
        volume = VolumeProof(
            volume_id="22" * 16, epoch=said.epoch, seq=4, root=said.root, writable=said.writable
        )
        binding = Binding(
            nonce=said.nonce or nonce,
            network_spki_sha256=hashlib.sha256(said.network_spki or self.network.spki).hexdigest(),
            session=said.binding_session or said.session,
            workload=said.workload,
            instance=said.instance,
            manifest_hash=f"sha256:{said.manifest.hex()}",
            volumes={"models": volume},
            receipt_key=said.receipt_key,
            iat=int(datetime.now(UTC).timestamp()) - said.binding_age_s,
        )
        token = sign_compact(
            said.binding_key or self.attested, said.binding_type, msgspec.json.encode(binding)
        )
        fields = msgspec.structs.asdict(self.attestation())
        return msgspec.json.encode(Statement(**fields, binding=token))


def _result(claims: SimpleNamespace, status: str) -> Any:
    """An attestation result; only tests may make one by hand."""
    return SimpleNamespace(
        claims=claims, status=status, trustworthiness_vector={}, policy_id=f"sha256:{'00' * 32}"
    )


def policy_text(trust: Path, **changes: str) -> str:
    """Return a policy that accepts what `Says()` says. changes: `service` lines, `platform` table, `top`."""
    platform = changes.get("platform", f'[appraisal.tdx]\nmr_td = ["{SOFTWARE}"]\n')
    service = changes.get("service", "")
    return (
        f'version = 1\n{changes.get("top", "")}\n[cas]\ntrust = "{trust}"\n'
        f'[service]\nsession = "acme/digits"\nworkload = "server"\n{service}\n{platform}'
    )
