"""TLS 1.3 between a CAS and its clients, by rustls: Python's `ssl` does not give a connection's exporter.

The exporter (RFC 8446, section 7.5) is 32 bytes that only the two ends of one connection know. Evidence that
is bound to it cannot come over another connection.
"""

import ssl

from securetf._core import TlsSession

__all__ = ["fill"]


def fill(session: TlsSession, arrived: bytes) -> None:
    """Give a session what arrived. Raises ssl.SSLError: it breaks the protocol, or is an alert."""
    try:
        session.feed(arrived)
    except ValueError as error:
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, str(error)) from None
