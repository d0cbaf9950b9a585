"""What the launcher needs of the stages before it, as Protocols: they are given as arguments."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from securetf.provisioning import Provision, VolumeGrant

Anchor = Callable[[int, int, bytes, int, bytes], None]  # (epoch, seq, root, new_seq, new_root), or it raises


class Provisioner(Protocol):
    """Attests to the CAS and returns what it releases."""

    def measure(self) -> None:
        """Measure this software and make the attester ready."""
        ...

    def provision(self) -> Provision:
        """Challenge, Evidence, and the opened Provision."""
        ...

    def anchor(self, grant: VolumeGrant) -> Anchor:
        """Return what makes new roots of this volume count at the CAS; native threads call it."""
        ...

    def close(self) -> None:
        """Close the connection; called last, also when `provision` was never called."""
        ...


class Mounted(Protocol):
    """One mounted volume."""

    def integrity_errors(self) -> tuple[int, str]:
        """Return how many answers to the program were integrity errors, and the last one's text."""
        ...

    def unmount(self) -> None:
        """Take it out of the namespace; after this nothing writes it any more."""
        ...

    def close(self) -> None:
        """Commit what was written, anchor it and forget the key. Raises if it could not be anchored."""
        ...


class Shield(Protocol):
    """The file-system shield. The launcher calls it from one thread."""

    def enter_namespace(self) -> None:
        """Give the calling thread, and what it starts, a mount namespace of its own."""
        ...

    def mount_memory(self, path: str, *, size_bytes: int, mode: int) -> None:
        """Mount an empty tmpfs on `path`."""
        ...

    def unmount_memory(self, path: str) -> None:
        """Unmount the tmpfs on `path`."""
        ...

    def mount_volume(self, grant: VolumeGrant, anchor: Anchor, directory: Path, path: str) -> Mounted:
        """Open the volume whose ciphertext is in `directory` and mount it on `path`."""
        ...
