"""Asks a service to prove itself: one TLS connection of its own, 32 bytes of nonce out, a statement back."""

import os
import socket
import ssl
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

from securetf.cas_client.spki import subject_public_key_info
from securetf.client.observation import Observation
from securetf.errors import CasIdentityError, UsageError
from securetf.service_errors import ServiceUnreachableError, StatementError
from securetf.wire.statement import ALPN, MAX_STATEMENT_BYTES, NONCE_BYTES

_LENGTH_BYTES = 4
_CHUNK = 65536
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError)  # the latter is what Python 3.11.2 calls it in a handshake


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of https://host[:port].

    Raises:
        UsageError: another form.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme != "https" or not host or parts.username or parts.path not in ("", "/") or parts.query:
        raise UsageError(f"{url!r} is not https://host:port", "give the address of the service alone")
    return host, port


def tls_context(alpn: str) -> ssl.SSLContext:
    """Return a context for TLS 1.3 that checks no certificate: the caller compares the key, then sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the attested key decides; TLS 1.3 proves that the peer holds it
    context.set_alpn_protocols([alpn])
    return context


def ask(url: str, *, deadline_s: float = 10.0) -> Observation:
    """Return what the service at `url` proves for a fresh nonce; nothing of it is checked yet.

    Raises:
        UsageError: not https://host:port. ServiceUnreachableError: no answer. StatementError: not TLS 1.3, or
        no service with a statement.
    """
    host, port = address_of(url)
    deadline = time.monotonic() + deadline_s
    nonce = os.urandom(NONCE_BYTES)
    try:
        with _connect(host, port, deadline) as secured:
            spki = _key(secured, url)
            secured.settimeout(_left(deadline))
            secured.sendall(nonce)
            statement = _answer(secured, deadline, url)
            version = secured.version() or ""
    except _CUT:
        raise _unreachable(url, "the connection was cut before the statement was whole") from None
    except ssl.SSLError as error:
        raise StatementError(
            f"{url} gave no statement over TLS 1.3: {error.reason or type(error).__name__}",
            "check the address: the service needs an `outside` rule, and nothing may terminate TLS before it",
        ) from None
    except TimeoutError:
        raise _unreachable(url, f"no statement within {deadline_s:g} s") from None
    except OSError as error:
        raise _unreachable(url, error.strerror or type(error).__name__) from None
    return Observation(
        url=url,
        observed_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        tls_version=version,
        tls_spki=spki,
        nonce=nonce,
        statement=statement,
    )


def peer_spki(secured: ssl.SSLSocket | ssl.SSLObject) -> bytes:
    """Return the SubjectPublicKeyInfo (DER) of the peer's certificate.

    Raises:
        StatementError: it has none that can be read.
    """
    try:
        return subject_public_key_info(secured.getpeercert(binary_form=True) or b"")
    except CasIdentityError:
        raise StatementError("the peer shows no certificate in DER", "check the address") from None


def _connect(host: str, port: int, deadline: float) -> ssl.SSLSocket:
    plain = socket.create_connection((host, port), timeout=_left(deadline))
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(_left(deadline))
        return tls_context(ALPN).wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def _key(secured: ssl.SSLSocket, url: str) -> bytes:
    if secured.selected_alpn_protocol() != ALPN:
        raise StatementError(
            f"{url} does not speak {ALPN}: it is no securetf service for clients outside",
            "check the address: the service needs an `outside` rule, and nothing may terminate TLS before it",
        )
    return peer_spki(secured)


def _answer(secured: ssl.SSLSocket, deadline: float, url: str) -> bytes:
    head = _read(secured, _LENGTH_BYTES, deadline, url)
    size = int.from_bytes(head, "big")
    if size > MAX_STATEMENT_BYTES:
        raise StatementError(
            f"{url} announces a statement of {size} bytes, at most {MAX_STATEMENT_BYTES} are read",
            "do not use the service",
        )
    return _read(secured, size, deadline, url)


def _read(secured: ssl.SSLSocket, size: int, deadline: float, url: str) -> bytes:
    found = bytearray()
    while len(found) < size:
        secured.settimeout(_left(deadline))
        part = secured.recv(min(_CHUNK, size - len(found)))
        if not part:
            raise StatementError(f"{url} ended its statement after {len(found)} bytes", "try again")
        found += part
    return bytes(found)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _unreachable(url: str, what: str) -> ServiceUnreachableError:
    return ServiceUnreachableError(
        f"the service at {url} cannot be reached: {what}; nothing was sent",
        "check that it runs, the address and the network, then try again",
    )
