"""One GET from a vendor's service: a deadline for all of it, a size limit, a few careful repetitions.

What comes is not trusted for having come over TLS: the verifier authenticates it. TLS keeps the host from
seeing and choosing what is asked for, and the vendor's name from being taken by just anybody.
"""

import http.client
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import urlsplit

from securetf.endorsements.refusals import EndorsementSourceError

ATTEMPTS = 3
BACKOFF_S = 0.5  # before the second attempt, doubled for the third, each with up to as much again at random
_RETRIED = frozenset({429, 500, 502, 503, 504})
_NETWORK = "check the host's name, the network and the proxy; or import the endorsements from another machine"
_SERVICE = "try again later, use another service (--pccs, --kds), or import the endorsements"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The body of a 200 answer, and its headers with names in lower case; each name once."""

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


class Downloader:
    """Gets what is asked for, one connection each. Thread-safe."""

    def __init__(
        self,
        *,
        deadline_s: float,
        ca_file: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """deadline_s: for one thing, all attempts together. ca_file: PEM of authorities for a service's TLS
        certificate, in place of the system's.

        Raises:
            EndorsementSourceError: the file of authorities cannot be read.
        """
        self._deadline_s, self._sleep = deadline_s, sleep
        try:
            self._context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            raise EndorsementSourceError(
                f"{ca_file} has no usable authorities: {error}", "give a file of PEM certificates"
            ) from None
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2

    def get(self, url: str, *, limit: int) -> Answer:
        """Return the answer to a GET; at most `limit` bytes of body.

        Raises:
            EndorsementSourceError: no proper answer within the deadline; the service's status is in it.
        """
        deadline = time.monotonic() + self._deadline_s
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt and not self._wait(deadline, BACKOFF_S * 2 ** (attempt - 1), problem, url):
                break
            try:
                status, headers, body = self._once(url, limit, deadline)
            except (OSError, http.client.HTTPException) as error:
                problem = _words(error)
                if time.monotonic() >= deadline:
                    problem = f"no answer within {self._deadline_s:g} s"
                    break
                if isinstance(error, ssl.SSLCertVerificationError):
                    break
                continue
            if status == 200:
                return Answer(body=body, headers=headers)
            problem = f"HTTP {status}"
            if status not in _RETRIED or not self._respect(headers.get("retry-after"), deadline):
                break
        raise EndorsementSourceError(f"{url}: {problem}", _SERVICE if "HTTP" in problem else _NETWORK)

    def _wait(self, deadline: float, seconds: float, problem: str, url: str) -> bool:  # noqa: ARG002
        pause = seconds + random.uniform(0, seconds)  # noqa: S311  (spreads clients; nothing secret)
        if time.monotonic() + pause >= deadline:
            return False
        self._sleep(pause)
        return True

    def _respect(self, retry_after: str | None, deadline: float) -> bool:
        """Wait as long as the service asks for; False if that is beyond the deadline."""
        if retry_after is None:
            return True
        if not retry_after.isdigit() or time.monotonic() + int(retry_after) >= deadline:
            return False
        self._sleep(float(retry_after))
        return True

    def _once(self, url: str, limit: int, deadline: float) -> tuple[int, dict[str, str], bytes]:
        connection = self._connection(url, deadline)
        parts = urlsplit(url)
        watchdog: threading.Timer | None = None
        try:
            connection.connect()
            watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (connection.sock,))
            watchdog.daemon = True
            watchdog.start()  # a host that sends a byte now and then is cut, too
            target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
            connection.request("GET", target, headers={"User-Agent": "securetf", "Connection": "close"})
            response = connection.getresponse()
            headers = _headers(response.headers)
            body = response.read(limit + 1) if response.status == 200 else b""
        finally:
            if watchdog is not None:
                watchdog.cancel()
            connection.close()
        if len(body) > limit:
            raise EndorsementSourceError(f"{url} answers with more than {limit} bytes", _SERVICE)
        length = headers.get("content-length", str(len(body)))
        if response.status == 200 and length != str(len(body)):
            raise http.client.IncompleteRead(body)
        return response.status, headers, body

    def _connection(self, url: str, deadline: float) -> http.client.HTTPConnection:
        parts = urlsplit(url)
        left = max(0.001, deadline - time.monotonic())
        if parts.hostname is None or parts.scheme not in {"http", "https"} or not _printable(url):
            raise EndorsementSourceError(f"{url!r} is not an address", "write it as https://host/path")
        if parts.scheme == "http":
            return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=left)
        return http.client.HTTPSConnection(
            parts.hostname, parts.port or 443, timeout=left, context=self._context
        )


def _headers(message: Message) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in message.items():
        if found.setdefault(name.lower(), value) != value:
            raise http.client.HTTPException(f"header {name} stands twice")
    return found


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which changes the state of a reader


def _printable(url: str) -> bool:
    return url.isascii() and all(" " < letter <= "~" for letter in url)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not accepted: {error.verify_message}"
    return str(error) or type(error).__name__
