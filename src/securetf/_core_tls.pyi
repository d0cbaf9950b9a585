"""TLS between a CAS and its clients, as `securetf._core` has it."""

from typing import final

@final
class TlsServer:
    """What a server proves itself with in TLS 1.3. `securetf.tls` is the one user."""

    def __init__(self, certificate: bytes, key: bytes, protocol: bytes) -> None:
        """certificate: DER. key: PKCS #8, DER. protocol: the one name of ALPN. Raises ValueError."""

    def accept(self) -> TlsSession: ...

@final
class TlsSession:
    """One end of one connection, without I/O. Calls raise ValueError where the other side is at fault."""

    @staticmethod
    def connect() -> TlsSession:
        """A client's end. It takes any certificate whose key the other side holds."""

    @property
    def is_handshaking(self) -> bool: ...
    @property
    def has_ended(self) -> bool:
        """Whether the other side has said that it sends no more, and all was read."""

    def feed(self, arrived: bytes) -> None:
        """Take what arrived from the network."""

    def read(self, limit: int) -> bytes:
        """What the other side sent, at most `limit` bytes; perhaps none."""

    def write(self, plain: bytes) -> int:
        """Encrypt; how many bytes were taken."""

    def close(self) -> None:
        """Say that we send no more."""

    def take(self) -> bytes:
        """All that is to be sent on the network."""

    def exporter(self, label: bytes) -> bytes:
        """32 bytes that only the two ends of this connection know (RFC 8446, section 7.5)."""

    def peer_certificate(self) -> bytes | None:
        """The other side's, DER."""
