"""The structs of version 1. Sizes are in bytes before base64."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Binding = Literal["key", "session"]  # session: the TLS exporter of the connection is in the transcript
Nonce = Annotated[bytes, Meta(min_length=32, max_length=32)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
HpkePublicKey = Annotated[bytes, Meta(min_length=1216, max_length=1216)]
Spki = Annotated[bytes, Meta(min_length=32, max_length=1024)]
EvidenceBytes = Annotated[bytes, Meta(min_length=1, max_length=622592)]  # each platform's own bound is lower
PlatformText = Annotated[str, Meta(min_length=1, max_length=64)]
SessionName = Annotated[
    str, Meta(min_length=3, max_length=129, pattern=r"^[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,64}$")
]
VolumeName = Annotated[str, Meta(min_length=1, max_length=70, pattern=r"^[A-Za-z0-9._-]{1,70}$")]
Endpoint = Annotated[str, Meta(min_length=3, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Instance = Annotated[int, Meta(ge=0, lt=65536)]
Epoch = Annotated[int, Meta(ge=0, lt=2**32)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
ManifestText = Annotated[str, Meta(min_length=1, max_length=262144)]
VolumeIdText = Annotated[str, Meta(min_length=32, max_length=32, pattern=r"^[0-9a-f]{32}$")]


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all messages share: immutable, and no field that the struct does not name."""


class ErrorDocument(Message, frozen=True, kw_only=True):
    """A refusal. `code` is the STF-nnnn of the class in `securetf.errors` that the client raises."""

    code: Annotated[str, Meta(pattern=r"^STF-[0-9]{4}$")]
    problem: Annotated[str, Meta(max_length=4096)]
    fix: Annotated[str, Meta(max_length=4096)]


class StatusResponse(Message, frozen=True, kw_only=True):
    """Whether the CAS is ready; unauthenticated, so it says nothing about sessions."""

    status: str
    version: str
    simulated: bool
    platform: str
    spki_sha256: str


class CasEvidenceRequest(Message, frozen=True, kw_only=True):
    """Ask the CAS to prove itself for this nonce, and under `session` over this connection."""

    nonce: Nonce
    binding: Binding = "key"


class CasEvidenceResponse(Message, frozen=True, kw_only=True, omit_defaults=True):
    """The CAS's own Evidence; report data binds nonce, TLS key and HPKE key under the role `cas`.

    endorsements: the collateral as JSON text, signed by its issuers; empty when the client has its own.
    audit_public_key: Ed25519, 32 bytes; signs heads of the audit log. submods: as of AttestRequest.
    """

    platform: str
    evidence: EvidenceBytes
    tls_spki: Spki
    hpke_public_key: HpkePublicKey
    audit_public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    endorsements: Annotated[str, Meta(max_length=524288)]
    submods: Annotated[dict[PlatformText, EvidenceBytes], Meta(max_length=2)] = {}


class ChallengeRequest(Message, frozen=True, kw_only=True):
    """Ask for a nonce for one attestation of this workload of this session, with the same `binding`."""

    session: SessionName
    workload: Name
    instance: Instance = 0
    binding: Binding = "key"


class ChallengeResponse(Message, frozen=True, kw_only=True):
    """nonce: single use; expires_in_s: seconds from now until the CAS refuses it."""

    nonce: Nonce
    expires_in_s: int


class AttestRequest(Message, frozen=True, kw_only=True):
    """Evidence of a workload, the keys it binds, and the Manifest that the workload was given.

    tls_spki: P-256 SubjectPublicKeyInfo, DER; signs `advance`. hpke_public_key: ML-KEM-768 (1184) then X25519
    (32). network_spki: P-256 too, of the network shield; None = no certificate is wanted. endpoint: "ip:port"
    where the shield listens, as the untrusted host says. submods: composite Evidence: platform to Evidence of
    the TPM beside the TEE (docs/formats/evidence-binding.md, "Composite Evidence"). binding: under
    `session`, the request comes over the connection of the challenge.
    """

    session: SessionName
    workload: Name
    nonce: Nonce
    manifest_hash: Digest
    platform: Annotated[str, Meta(max_length=64)]
    evidence: EvidenceBytes
    tls_spki: Spki
    hpke_public_key: HpkePublicKey
    instance: Instance = 0
    network_spki: Spki | None = None
    endpoint: Endpoint | None = None
    submods: Annotated[dict[PlatformText, EvidenceBytes], Meta(max_length=2)] = {}
    binding: Binding = "key"


class RenewRequest(AttestRequest, frozen=True, kw_only=True):
    """As AttestRequest, by the current member: the same tls_spki, which also signs the request."""


class TokenRequest(AttestRequest, frozen=True, kw_only=True):
    """As RenewRequest, for an EAR token alone: without network key and endpoint, which stay."""


class TokenResponse(Message, frozen=True, kw_only=True):
    """token: EAR (EAT JWT) about the Evidence of the request."""

    token: str


class RenewResponse(Message, frozen=True, kw_only=True):
    """The member's next certificate; see `provisioning.NetworkGrant`. Certificates are DER, leaf first.

    not_after: Unix seconds.
    """

    trust_domain: str
    chain: list[bytes]
    trust_root: bytes
    not_after: int
    lifetime_s: int


class MemberView(Message, frozen=True, kw_only=True):
    """One member. Times are Unix seconds by the CAS's clock. endpoint: as the untrusted host advertised it.

    generation: counts the attestations of this instance. last_attested_at: counts renewals too. expires_at:
    end of its certificate.
    """

    workload: Name
    instance: Instance
    endpoint: str | None
    generation: int
    attested_at: int
    last_attested_at: int
    expires_at: int


class VolumeHead(Message, frozen=True, kw_only=True):
    """Where a volume stands. root: 32 bytes."""

    epoch: Epoch
    seq: Sequence
    root: Digest


class MembersView(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Members that attested with the current Manifest, also those whose certificate has ended since.

    missing: "workload/instance" that the caller's TensorFlow cluster (for an owner: the session) still needs.
    tf_config: for a member of a cluster, once nobody is missing. volumes: those that the caller follows.
    """

    manifest_hash: str
    members: list[MemberView]
    ready: bool
    missing: list[str]
    tf_config: str | None
    volumes: dict[str, VolumeHead] = {}


class DenialItem(Message, frozen=True, kw_only=True):
    """A connection that a network shield refused, `count` times. time_s: Unix seconds by its own clock."""

    time_s: Annotated[int, Meta(ge=0, lt=2**48)]
    direction: Literal["outbound", "inbound"]
    process: Annotated[str, Meta(max_length=64)]
    destination: Annotated[str, Meta(max_length=300)]
    reason: Annotated[str, Meta(max_length=300)]
    count: Annotated[int, Meta(ge=1, lt=2**32)] = 1


class DenialReport(Message, frozen=True, kw_only=True):
    """What a member's shield refused since its last report. dropped: how many it could not keep."""

    workload: Name
    instance: Instance
    denials: Annotated[list[DenialItem], Meta(max_length=64)]
    dropped: Annotated[int, Meta(ge=0, lt=2**48)] = 0


class LeaveRequest(Message, frozen=True, kw_only=True):
    """A member whose program has ended: from now on nobody waits for it, or counts on it."""

    workload: Name
    instance: Instance


class AttestResponse(Message, frozen=True, kw_only=True):
    """token: EAR (EAT JWT). sealed_provision: HPKE to the attested key with the binding transcript as info.

    timings_us: what the CAS spent: verify, appraise, release (microseconds).
    """

    token: str
    sealed_provision: bytes
    timings_us: dict[str, int]


class SessionCreateRequest(Message, frozen=True, kw_only=True):
    """manifest: TOML text of the first version; names no predecessor."""

    manifest: ManifestText


class SessionUpdateRequest(Message, frozen=True, kw_only=True):
    """manifest: TOML text of the next version; its predecessor is the hash of the current one."""

    manifest: ManifestText


class VolumeState(Message, frozen=True, kw_only=True):
    """Where a volume stands. The key is not here: keys leave only sealed."""

    name: VolumeName
    volume_id: VolumeIdText
    key_version: int
    epoch: Epoch
    seq: Sequence
    root: Digest
    writer: str | None


class SessionView(Message, frozen=True, kw_only=True):
    """The current version. `manifest` is the TOML text as submitted."""

    session: SessionName
    version: int
    manifest_hash: str
    manifest: str
    creator: str
    volumes: list[VolumeState]
    secrets: list[str]


class VersionView(Message, frozen=True, kw_only=True):
    """One version of a session; `time` is RFC 3339 UTC by the CAS's clock."""

    version: int
    manifest_hash: str
    predecessor: str | None
    signed_by: str
    time: str


class SessionHistory(Message, frozen=True, kw_only=True):
    """All versions, the first one first."""

    session: SessionName
    versions: list[VersionView]


class GrantRequest(Message, frozen=True, kw_only=True):
    """hpke_public_key: ephemeral, made for this grant; the volume key is sealed to it."""

    hpke_public_key: HpkePublicKey


class SealedResponse(Message, frozen=True, kw_only=True):
    """One value sealed by HPKE to the key that the request named."""

    sealed: bytes


class AdvanceRequest(Message, frozen=True, kw_only=True):
    """Compare-and-swap of a volume's state from (seq, root) to (new_seq, new_root) under `epoch`."""

    epoch: Epoch
    seq: Sequence
    root: Digest
    new_seq: Sequence
    new_root: Digest


class Advanced(Message, frozen=True, kw_only=True):
    """leased_s: for how many seconds readers have leases on states before the new one; 0 if none has."""

    leased_s: Annotated[int, Meta(ge=0, le=3600)]


class SecretImportRequest(Message, frozen=True, kw_only=True):
    """sealed: the value, HPKE to the CAS's key with `provisioning.secret_transcript` as info."""

    sealed: Annotated[bytes, Meta(max_length=131072)]


class Done(Message, frozen=True, kw_only=True):
    """The request was carried out and is durable."""


class AuditHead(Message, frozen=True, kw_only=True):
    """Length and digest of the audit log, signed by the CAS. `length` counts entries from the beginning."""

    length: int
    digest: Digest
    time: str
    simulated: bool
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


class AuditEntryLine(Message, frozen=True, kw_only=True):
    """One entry: its exact text when the reader may see it, else only the digest of it."""

    seq: int
    leaf: Digest
    entry: str | None


class AuditPage(Message, frozen=True, kw_only=True):
    """Entries `first` … in order. `previous`: chain digest before `first`; `head` is of the whole log."""

    first: int
    previous: Digest
    entries: list[AuditEntryLine]
    head: AuditHead
