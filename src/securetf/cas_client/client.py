"""Requests to a CAS: each is sent only after the CAS's key has been compared with the pinned one."""

from securetf.attester import Attester
from securetf.cas_client.trust import CasTrust
from securetf.keys.owner import OwnerKey
from securetf.manifest import Manifest
from securetf.provisioning import Provision, VolumeGrant
from securetf.wire import AuditPage, SessionHistory, SessionView, StatusResponse


class CasClient:
    """One CAS, verified before (`CasTrust`). Thread-safe; keeps connections alive; use as a context manager.

    Each call raises CasUnreachableError, CasIdentityError, CasProtocolError, or the error that the CAS answered
    with, as the same class of `securetf.errors`.
    """

    def __init__(self, trust: CasTrust, *, deadline_s: float = 10.0) -> None:
        raise NotImplementedError

    def __enter__(self) -> "CasClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        raise NotImplementedError

    def status(self) -> StatusResponse:
        """Ask whether the CAS is ready."""
        raise NotImplementedError

    def create_session(self, manifest_text: str, owner_key: OwnerKey) -> SessionView:
        """Submit the first version (TOML text); the key becomes `creator`. The CAS makes keys and secrets."""
        raise NotImplementedError

    def update_session(self, manifest_text: str, owner_key: OwnerKey) -> SessionView:
        """Submit the next version; it names the current hash as predecessor."""
        raise NotImplementedError

    def read_session(self, session: str, owner_key: OwnerKey) -> SessionView:
        """Read the current version and the states of its volumes."""
        raise NotImplementedError

    def history(self, session: str, owner_key: OwnerKey) -> SessionHistory:
        """Read the chain of versions."""
        raise NotImplementedError

    def packing_grant(self, session: str, volume: str, owner_key: OwnerKey) -> VolumeGrant:
        """Become the writer of a volume: raises its epoch, fences the writer before. Later `advance` calls of this
        client for the volume are signed by `owner_key`."""
        raise NotImplementedError

    def export_grant(self, session: str, volume: str, owner_key: OwnerKey) -> VolumeGrant:
        """Take the key of a volume out for reading; the Manifest's `export` must name the key."""
        raise NotImplementedError

    def advance(
        self, volume_id: bytes, *, epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes
    ) -> None:
        """Move a volume's state by compare-and-swap; returns once it is durable and anchored. Thread-safe.

        A repetition of the last successful call succeeds again, so a lost answer may be retried (and is, once).

        Raises:
            FencedError: the epoch is not current, or another key holds the lease: stop writing.
            ConflictError: (seq, root) is not the current state.
        """
        raise NotImplementedError

    def import_secret(self, session: str, secret: str, value: bytes, owner_key: OwnerKey) -> None:
        """Seal a value to the CAS and store it as a secret of kind `value`."""
        raise NotImplementedError

    def audit(self, session: str, owner_key: OwnerKey, *, first: int = 0) -> AuditPage:
        """Read a page of the audit log from entry `first` on; entries of other sessions come as digests only."""
        raise NotImplementedError

    def provision(
        self, session: str, workload: str, manifest: Manifest, attester: Attester, instance: int = 0
    ) -> tuple[str, Provision]:
        """Attest this workload: challenge, Evidence bound to fresh keys, then (EAR token, opened Provision).

        Later `advance` calls for its writable volumes are signed by the attested key.
        """
        raise NotImplementedError
