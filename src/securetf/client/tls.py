"""An `ssl.SSLContext` for any library: its connections send nothing to a peer without the attested key.

The peer's certificate is checked by OpenSSL against the session's authority; its key is compared with the
attested one after the handshake and before the first byte of data, on each connection; and each later write
asks whether the attestation still holds.
"""

import ssl
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from securetf.client.ask import peer_spki
from securetf.client.client_key import certificate_of
from securetf.client.service import AttestedService, matches, other_key
from securetf.errors import UsageError
from securetf.service_errors import ClientNotAuthorisedError, ServiceNotProvedError

# Alerts by which a service refuses a client's key (RFC 8446 section 6.2), as OpenSSL calls them.
_REFUSALS = (
    "CERTIFICATE_REQUIRED",
    "ACCESS_DENIED",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_UNKNOWN_CA",
)
_CUT = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)  # as writing fails after the peer has closed


class _Proving:
    """What `SSLSocket` and `SSLObject` share. `_proved`: the attested key that the peer was checked for."""

    _proved = ""

    def _prove(self) -> None:
        """Compare the peer's key with the attested one; if it differs, once more after attesting again."""
        secured = cast(ssl.SSLSocket, self)
        service = cast(AttestedContext, secured.context).service
        proved, spki = service.ensure(), peer_spki(secured)
        if not matches(spki, proved):
            proved = service.again(proved)
        if secured.version() != "TLSv1.3" or not matches(spki, proved):
            raise other_key(service, spki)
        self._proved = proved.attested_key

    def _still(self) -> None:
        """Before each write: the attestation holds, or is made again for the same attested key."""
        secured = cast(ssl.SSLSocket, self)
        if not self._proved:
            secured.do_handshake()
        if cast(AttestedContext, secured.context).service.ensure().attested_key != self._proved:
            raise ConnectionResetError("the service was started anew since this connection was made")


class _Socket(_Proving, ssl.SSLSocket):
    """A socket whose peer is proved before anything is written."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except ssl.SSLCertVerificationError as error:
            raise ServiceNotProvedError(
                f"the peer's certificate is not of the session's authority: {error.verify_message}; "
                "nothing was sent",
                "connect to the service itself, not through something that terminates TLS",
            ) from None
        try:
            self._prove()
        except BaseException:
            self.close()
            raise

    def write(self, data: Any) -> int:
        self._still()
        try:
            return super().write(data)
        except _CUT:
            self._alert()
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        self._still()
        try:
            return super().send(data, flags)
        except _CUT:
            self._alert()
            raise

    def _alert(self) -> None:
        """Read the alert, if there is one, after which the service closed."""
        try:
            super().read(1)
        except ssl.SSLError as error:
            raise refused_or(error) from None
        except OSError:
            return

    def read(self, length: int = 1024, buffer: Any = None) -> Any:
        try:
            return super().read(length, buffer)
        except ssl.SSLError as error:
            raise refused_or(error) from None


class _Object(_Proving, ssl.SSLObject):
    """The same for libraries that move the bytes themselves (asyncio, trio)."""

    def do_handshake(self) -> None:
        super().do_handshake()
        try:
            self._prove()
        except ServiceNotProvedError as error:
            raise ssl.SSLCertVerificationError(1, str(error)) from error  # what such libraries expect

    def write(self, data: Any) -> int:
        self._still()
        return super().write(data)


class AttestedContext(ssl.SSLContext):
    """A context for one service. What a library sets on it (ALPN, verification) weakens nothing: the
    comparison of the key stands apart.
    """

    sslsocket_class = _Socket
    sslobject_class = _Object
    service: AttestedService

    def __new__(cls, service: AttestedService, client_key: Path | None = None) -> "AttestedContext":  # noqa: ARG004
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, service: AttestedService, client_key: Path | None = None) -> None:
        """client_key: PEM file, for services that admit only known clients."""
        self.service = service
        self._authorities: set[bytes] = set()
        self._adding = threading.Lock()
        self.minimum_version = ssl.TLSVersion.TLSv1_3
        self.check_hostname = False  # the key is compared; a member's certificate has no DNS name
        self.verify_mode = ssl.CERT_REQUIRED
        if client_key is not None:
            load_client_key(self, client_key)

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As of `ssl.SSLContext`; the service is attested first.

        Raises:
            ServiceNotProvedError, ServiceUnreachableError: it does not prove itself; nothing is sent.
        """
        self._prepare(named)
        return super().wrap_socket(*arguments, **named)

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """As of `ssl.SSLContext`; the service is attested first. Raises as `wrap_socket`."""
        self._prepare(named)
        return super().wrap_bio(*arguments, **named)

    def _prepare(self, named: dict[str, Any]) -> None:
        if named.get("server_side") or named.get("session") is not None:
            raise UsageError(
                "an attested context is for clients, and resumes no sessions", "leave these arguments out"
            )
        root = self.service.ensure().trust_root
        with self._adding:
            if root not in self._authorities:
                self.load_verify_locations(cadata=root)
                self._authorities.add(root)


def load_client_key(context: ssl.SSLContext, path: Path) -> None:
    """Have a context show the key in `path` (PEM) with a self-signed certificate.

    Raises:
        KeyFileError: missing, readable by others, or not such a key.
    """
    with TemporaryDirectory(prefix="securetf-") as directory:
        certificate = Path(directory) / "client.pem"
        certificate.write_bytes(certificate_of(path))
        context.load_cert_chain(certificate, path)


def refused_or(error: ssl.SSLError) -> Exception:
    """Return the error to raise for a TLS error: that the client is not admitted, or the error itself."""
    if any(word in (error.reason or "") for word in _REFUSALS):
        return ClientNotAuthorisedError(
            f"the service has proved itself, and does not admit this client ({error.reason})",
            "have its owner add your public key to `clients` of the `outside` rule, and give the private key",
        )
    return error
