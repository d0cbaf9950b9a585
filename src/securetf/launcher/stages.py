"""What the launcher needs of the stages before it, as Protocols: they are given as arguments."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class Grant(Protocol):
    """The right to one volume (`securetf.provisioning.VolumeGrant`)."""

    @property
    def name(self) -> str:
        """Name of the volume in the Manifest."""
        ...

    @property
    def writable(self) -> bool:
        """Whether the CAS grants writing."""
        ...


class Provisioned(Protocol):
    """What the CAS released (`securetf.provisioning.Provision`)."""

    @property
    def manifest_hash(self) -> bytes:
        """Hash of the Manifest for which it was released, 32 bytes."""
        ...

    @property
    def volumes(self) -> Sequence[Grant]:
        """One grant per volume of the workload."""
        ...

    @property
    def secrets(self) -> Mapping[str, bytes]:
        """Secret name to value."""
        ...


class Mounted(Protocol):
    """One mounted volume."""

    def unmount(self) -> None:
        """Take it out of the namespace; after this nothing writes it any more."""
        ...

    def close(self) -> None:
        """Commit what was written, anchor it and forget the key. Raises if it could not be anchored."""
        ...


class Shield(Protocol):
    """The file-system shield as the launcher uses it. All calls come from one thread."""

    def enter_namespace(self) -> None:
        """Give the calling thread, and what it starts, a mount namespace of its own."""
        ...

    def mount_memory(self, path: str, *, size_bytes: int, mode: int) -> None:
        """Mount an empty tmpfs on `path`."""
        ...

    def unmount_memory(self, path: str) -> None:
        """Unmount the tmpfs on `path`."""
        ...

    def mount_volume(self, grant: Grant, directory: Path, path: str) -> Mounted:
        """Open the volume in `directory` and mount it on `path`."""
        ...


class Provisioner(Protocol):
    """Attests to the CAS and returns what it releases."""

    def attest(self) -> None:
        """Measure this software and prepare the Evidence's attester."""
        ...

    def provision(self) -> Provisioned:
        """Challenge, Evidence, and the opened Provision. The connection stays for the volumes' anchors."""
        ...

    def close(self) -> None:
        """Close the connection; called last."""
        ...
