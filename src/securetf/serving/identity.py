"""The identity directory that the launcher gives a program with `receipts = true`; read-only here."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securetf.serving.errors import ReceiptUnavailableError

_MAX_BYTES = 1 << 20
ENVIRONMENT = "SECURETF_IDENTITY"


@dataclass(frozen=True, slots=True)
class Identity:
    """directory: as the launcher made it, in memory, for this user alone."""

    directory: Path

    @classmethod
    def from_environment(cls) -> "Identity | None":
        """Return the directory that the environment names, None if it names none."""
        path = os.environ.get(ENVIRONMENT)
        return cls(Path(path)) if path else None

    def read(self, name: str) -> bytes:
        """Return a file of the directory.

        Raises:
            ReceiptUnavailableError: it is missing or larger than 1 MiB.
        """
        try:
            with (self.directory / name).open("rb") as stream:
                content = stream.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ReceiptUnavailableError(
                f"{name} of the identity directory cannot be read: {error.strerror}",
                "start the service by `securetf run` with `receipts = true` in its workload",
            ) from None
        if len(content) > _MAX_BYTES:
            raise ReceiptUnavailableError(
                f"{name} of the identity directory is larger than 1 MiB", "start the service anew"
            )
        return content

    def document(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the directory.

        Raises:
            ReceiptUnavailableError: as `read`, or not a JSON object.
        """
        try:
            found = json.loads(self.read(name))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ReceiptUnavailableError(
                f"{name} of the identity directory is not a JSON object", "start the service anew"
            )
        return found

    def volume_of(self, path: Path) -> tuple[str, str, int]:
        """Return name, root (hex) and epoch of the volume in whose mount a path lies; empty and 0 for none.
        The root is empty while the mount of a volume that is followed moves to the next one.

        Raises:
            ReceiptUnavailableError: as `document`.
        """
        where = path.resolve()
        best: tuple[int, tuple[str, str, int]] = (-1, ("", "", 0))
        for name, facts in self.document("volumes.json").items():
            mount = Path(facts["mount"])
            if where.is_relative_to(mount) and len(mount.parts) > best[0]:
                best = (len(mount.parts), (name, str(facts["root"]), int(facts["epoch"])))
        return best[1]
