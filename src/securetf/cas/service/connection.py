"""The connection that a request came over, as far as Evidence is bound to it."""

from collections.abc import Callable
from dataclasses import dataclass

from securetf.errors import BindingError
from securetf.evidence.binding import EXPORTER_LABEL


@dataclass(frozen=True, slots=True)
class Connection:
    """export: label to 32 bytes that only its two ends know; None where nothing gives them."""

    export: Callable[[str], bytes] | None = None

    def exporter(self, binding: str) -> bytes | None:
        """Return what a transcript of this `binding` has of the connection: None under `key`.

        Raises:
            BindingError: `session`, and the connection has no exporter.
        """
        if binding != "session":
            return None
        if self.export is None:
            raise BindingError(
                "the request asks for `binding: session`, and its connection has no TLS exporter",
                "connect to the CAS itself by TLS 1.3, or ask for `key` if the Manifest allows it",
            )
        return self.export(EXPORTER_LABEL)


NO_EXPORTER = Connection()
