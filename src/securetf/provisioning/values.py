"""`Provision` and `VolumeGrant`."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Bytes16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]

Freshness = Literal["pinned", "follow", "group", "strict", "async"]


class VolumeGrant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The right to read, or to read and write, one volume from one state on.

    key: 32 bytes, never shown. key_since: the first epoch that seals under it. older_key: of the version
    before, for what earlier epochs sealed; None when nothing needs it. kept_since: the first epoch whose
    records count beyond the state: what was there when an owner accepted a root does not.
    epoch: for a writable grant the raised one; older writers are fenced.
    seq, root: the state that the CAS names; root is 32 bytes, all zero for a volume that was never written.
    mount_path: where the workload sees it; empty for an owner's grant. chunk_size: bytes. protection: of the
    files' contents; a volume of another one is refused.
    """

    name: str
    volume_id: Bytes16
    key: Bytes32
    key_version: int
    key_since: int = 0
    older_key: Bytes32 | None = None
    kept_since: int = 0
    epoch: int
    seq: int
    root: Bytes32
    writable: bool
    freshness: Freshness
    mount_path: str
    chunk_size: int
    protection: Literal["encrypted", "authenticated"] = "encrypted"

    def __repr__(self) -> str:
        return (
            f"VolumeGrant({self.name!r}, id={self.volume_id.hex()}, key=<{len(self.key)} bytes>, "
            f"key_version={self.key_version}, "
            f"epoch={self.epoch}, seq={self.seq}, root={self.root.hex()}, writable={self.writable})"
        )


class NetworkGrant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member's certificate (docs/formats/x509-svid.md); nothing in it is secret.

    trust_domain: of the CAS. chain: DER, leaf first, without the root. trust_root: DER, the session's
    authority. not_after: end of the leaf, Unix seconds. lifetime_s: from now to there; renew at half of it.
    """

    trust_domain: str
    chain: list[bytes]
    trust_root: bytes
    not_after: int
    lifetime_s: int


class Provision(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the CAS released to one attested workload.

    manifest_hash: 32 bytes. secrets: name to value; values are never shown. network: None when no network key
    was attested.
    """

    session: str
    workload: str
    instance: int
    manifest_hash: Bytes32
    volumes: list[VolumeGrant]
    secrets: dict[str, bytes]
    network: NetworkGrant | None = None

    def __repr__(self) -> str:
        sizes = {name: f"<{len(value)} bytes>" for name, value in self.secrets.items()}
        return (
            f"Provision({self.session!r}, {self.workload!r}, instance={self.instance}, "
            f"manifest_hash={self.manifest_hash.hex()}, volumes={self.volumes!r}, secrets={sizes})"
        )
