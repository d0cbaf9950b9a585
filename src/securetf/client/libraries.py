"""httpx and requests over attested connections, and over no others. Imported only when they are asked for."""

from typing import Any

from securetf.client.service import AttestedService
from securetf.client.tls import AttestedContext
from securetf.errors import EnvironmentUnfitError, UsageError


def httpx_client(service: AttestedService, context: AttestedContext) -> Any:
    """Return an `httpx.Client` whose base URL is the service.

    Raises:
        EnvironmentUnfitError: httpx is not installed.
    """
    try:
        import httpx  # noqa: PLC0415 - only those who ask for it need it
    except ImportError:
        raise _missing("httpx") from None

    class Transport(httpx.HTTPTransport):
        """Refuses whatever is not https; other hosts fail by their key."""

        _key = ""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.scheme != "https":
                raise _not_https(str(request.url))
            key = service.ensure().attested_key
            if key != self._key and self._key:
                self._pool.close()  # connections of a process that has ended
            self._key = key
            return super().handle_request(request)

    return httpx.Client(base_url=service.url, transport=Transport(verify=context), trust_env=False)


def requests_session(service: AttestedService, context: AttestedContext) -> Any:
    """Return a `requests.Session`; requests has no base URL: give whole URLs of the service.

    Raises:
        EnvironmentUnfitError: requests is not installed.
    """
    try:
        import requests  # noqa: PLC0415
        from requests.adapters import HTTPAdapter  # noqa: PLC0415
    except ImportError:
        raise _missing("requests") from None

    class Adapter(HTTPAdapter):
        """Gives its pools the attested context; the name of a certificate decides nothing."""

        _key = ""

        def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
            super().init_poolmanager(*arguments, ssl_context=context, assert_hostname=False, **named)

        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ARG002
            conn.cert_reqs, conn.ca_certs, conn.ca_cert_dir = "CERT_REQUIRED", None, None

        def send(self, request: Any, *arguments: Any, **named: Any) -> Any:
            key = service.ensure().attested_key
            if key != self._key and self._key:
                self.poolmanager.clear()
            self._key = key
            return super().send(request, *arguments, **named)

    class Refusing(HTTPAdapter):
        def send(self, request: Any, *_: Any, **__: Any) -> Any:
            raise _not_https(str(request.url))

    session = requests.Session()
    session.trust_env = False
    session.mount("https://", Adapter())
    session.mount("http://", Refusing())
    return session


def missing_grpc() -> EnvironmentUnfitError:
    """Return the error for a machine without grpcio."""
    return _missing("grpcio")


def _missing(package: str) -> EnvironmentUnfitError:
    return EnvironmentUnfitError(
        f"{package} is not installed", f"install {package}, or use `.ssl_context` with another library"
    )


def _not_https(url: str) -> UsageError:
    return UsageError(
        f"{url[:200]!r} is not https: it would leave this machine unprotected; nothing was sent",
        "use the https URL of the service",
    )
