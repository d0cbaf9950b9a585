"""The rows of the CAS's state, as typed values: docs/formats/cas-state.md."""

from typing import TypeVar

import msgspec
from msgspec import Struct

from securetf.cas.store import Store, Transaction
from securetf.errors import CasStateError, NotFoundError

DEFAULT_CHUNK_SIZE = 65536  # bytes; docs/formats/volume-v1.md
VIRGIN_ROOT = bytes(32)


class Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all rows share."""


class IdentityRow(Row, frozen=True, kw_only=True):
    """The CAS's own keys. Table `identity`, key `cas`.

    Private keys are PKCS#8 DER, hpke_private 96 bytes, the certificate DER.
    """

    tls_private: bytes
    certificate: bytes
    token_private: bytes
    audit_private: bytes
    hpke_private: bytes


class SessionRow(Row, frozen=True, kw_only=True):
    """The current version of a session. Table `session`, key its name.

    volumes: name to volume id, those of former versions included, so that a name never gets a second key.
    """

    name: str
    creator: str
    version: int
    manifest_hash: bytes
    manifest: str
    volumes: dict[str, str]


class VersionRow(Row, frozen=True, kw_only=True):
    """One version of a session. Table `version`, key name ‖ NUL ‖ version (4 bytes, big endian)."""

    version: int
    manifest_hash: bytes
    predecessor: str | None
    signed_by: str
    time: str
    manifest: str


class Lease(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may advance a volume. key_id: owner's or `p256:…`; spki: of the attested key, empty for owners."""

    key_id: str
    spki: bytes
    holder: str


class VolumeRow(Row, frozen=True, kw_only=True):
    """One volume. Table `volume`, key its id (16 bytes).

    key_since: the first epoch of `key`. older_key: of the version before, until a writer says that nothing
    needs it. kept_since: the first epoch whose records count beyond (seq, root).
    """

    volume_id: bytes
    session: str
    name: str
    key: bytes
    key_version: int
    key_since: int = 0
    older_key: bytes | None = None
    kept_since: int = 0
    epoch: int
    seq: int
    root: bytes
    chunk_size: int
    lease: Lease | None


class SecretRow(Row, frozen=True, kw_only=True):
    """The value of one secret. Table `secret`, key session ‖ NUL ‖ name. `version` counts imports."""

    value: bytes
    kind: str
    version: int


class OwnerRow(Row, frozen=True, kw_only=True):
    """What one owner's key has made. Table `owner`, key the key id."""

    sessions: int


class AuthorityRow(Row, frozen=True, kw_only=True):
    """The certificate authority of a session. Table `authority`, key its name.

    private: PKCS#8 DER. certificate: DER; the trust root of all members.
    """

    private: bytes
    certificate: bytes


class MemberRow(Row, frozen=True, kw_only=True):
    """Who attested last as one instance. Table `member`, key session ‖ NUL ‖ workload ‖ NUL ‖ instance (2).

    generation: counts the attestations of this instance. key_id, tls_spki: the attested key. network_spki,
    endpoint: empty when it has no network. Times are Unix seconds; expires_at is the certificate's end, or
    when the member left before; 0 without a certificate.
    """

    workload: str
    instance: int
    generation: int
    manifest_hash: bytes
    key_id: str
    tls_spki: bytes
    network_spki: bytes
    endpoint: str
    attested_at: int
    last_attested_at: int
    expires_at: int


class TpmKeyRow(Row, frozen=True, kw_only=True):
    """An enrolled attestation key. Table `tpm_key`, key its TPM name. Times are Unix seconds.

    ek_sha256: SHA-256 of the endorsement key's SubjectPublicKeyInfo. valid_until: end of its certificates.
    """

    ek_sha256: bytes
    valid_until: int
    enrolled_at: int


class TpmRow(Row, frozen=True, kw_only=True):
    """The enrolled keys of one TPM, the newest last. Table `tpm`, key ek_sha256."""

    keys: list[bytes]


_R = TypeVar("_R", bound=Row)
_TABLES: dict[type[Row], str] = {
    IdentityRow: "identity",
    SessionRow: "session",
    VersionRow: "version",
    VolumeRow: "volume",
    SecretRow: "secret",
    OwnerRow: "owner",
    AuthorityRow: "authority",
    MemberRow: "member",
    TpmKeyRow: "tpm_key",
    TpmRow: "tpm",
}


def version_key(session: str, version: int) -> bytes:
    """Return the key of a row of table `version`."""
    return session.encode() + b"\0" + version.to_bytes(4, "big")


def secret_key(session: str, name: str) -> bytes:
    """Return the key of a row of table `secret`."""
    return session.encode() + b"\0" + name.encode()


def member_key(session: str, workload: str, instance: int) -> bytes:
    """Return the key of a row of table `member`."""
    return f"{session}\0{workload}\0".encode() + instance.to_bytes(2, "big")


def rows_of(store: Store, kind: type[_R], prefix: bytes) -> list[_R]:
    """Read the rows whose keys begin with `prefix`, in the order of their keys."""
    found = (find(store, kind, key) for key in store.keys(_TABLES[kind], prefix))
    return [row for row in found if row is not None]


def find(source: Store | Transaction, kind: type[_R], key: bytes) -> _R | None:
    """Read one row, None when there is none."""
    raw = source.get(_TABLES[kind], key)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind, strict=True)
    except msgspec.DecodeError as error:
        raise CasStateError(
            f"a row of {_TABLES[kind]} is of another release: {error}", "start the release that wrote it"
        ) from None


def put(transaction: Transaction, key: bytes, row: Row) -> None:
    """Write one row."""
    transaction.put(_TABLES[type(row)], key, msgspec.json.encode(row))


def session_of(source: Store | Transaction, name: str) -> SessionRow:
    """Read a session. Raises NotFoundError."""
    row = find(source, SessionRow, name.encode())
    if row is None:
        raise no_session(name)
    return row


def no_session(name: str) -> NotFoundError:
    """Return the one refusal for sessions that are not there and those that this key may not see."""
    return NotFoundError(
        f"there is no session {name}, or it is not for this key",
        "check the name, and that `[access]` of its Manifest names your key",
    )


def volume_of(source: Store | Transaction, session: SessionRow, name: str) -> VolumeRow:
    """Read a volume of a session. Raises NotFoundError."""
    volume_id = session.volumes.get(name)
    row = find(source, VolumeRow, bytes.fromhex(volume_id)) if volume_id else None
    if row is None:
        raise no_volume(session.name, name)
    return row


def no_volume(session: str, name: str) -> NotFoundError:
    """Return the refusal for a volume that the current Manifest does not have."""
    return NotFoundError(
        f"{session} has no volume {name}", "add it under `[volumes]` of the Manifest, or correct the name"
    )
