"""`securetf.connect`: one attested service, for the library that the caller already uses."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from securetf.client.libraries import httpx_client, missing_grpc, requests_session
from securetf.client.policy import ClientPolicy, load_policy
from securetf.client.service import AttestedService
from securetf.client.tls import AttestedContext
from securetf.client.verdict import Attestation, Verdict

if TYPE_CHECKING:
    from securetf.client.channel import ChannelRelay


class Connection:
    """A service that has proved itself. Thread-safe; use as a context manager, or call `close`.

    Whatever is made here attests the service again when its attestation ends, and sends nothing to a peer
    without the attested key. Errors of attestation (STF-15xx, exit 17 and 18) differ from that of
    authorisation (STF-1520, exit 19).
    """

    def __init__(self, service: AttestedService, client_key: Path | None) -> None:
        self._service, self._client_key = service, client_key
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}
        self._relay: ChannelRelay | None = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """https://host[:port] of the service."""
        return self._service.url

    @property
    def attestation(self) -> Attestation:
        """What the service proves now; asks it again when the last proof has ended.

        Raises:
            ServiceNotProvedError, ServiceUnreachableError: it does not prove itself.
        """
        return self._service.ensure()

    @property
    def ssl_context(self) -> AttestedContext:
        """An `ssl.SSLContext` for any library that takes one, such as `httpx.AsyncClient(verify=…)`."""
        return self._once("ssl", lambda: AttestedContext(self._service, self._client_key))  # type: ignore[no-any-return]

    @property
    def http_client(self) -> Any:
        """An `httpx.Client`; its base URL is the service."""
        context = self.ssl_context
        return self._once("httpx", lambda: httpx_client(self._service, context))

    @property
    def session(self) -> Any:
        """A `requests.Session`; give whole URLs, such as `connection.url + "/v1/models/lines"`."""
        context = self.ssl_context
        return self._once("requests", lambda: requests_session(self._service, context))

    @property
    def channel(self) -> Any:
        """A `grpc.Channel` for any generated stub."""
        return self._once("grpc", self.make_channel)

    def make_channel(self, options: Sequence[tuple[str, Any]] = ()) -> Any:
        """Return a further `grpc.Channel`, with options of gRPC. Close it yourself.

        Raises:
            EnvironmentUnfitError: grpcio is not installed.
        """
        try:
            from securetf.client.channel import ChannelRelay  # noqa: PLC0415 - needs grpcio
        except ImportError:
            raise missing_grpc() from None
        with self._lock:
            if self._relay is None:
                self._relay = ChannelRelay(self._service, self._client_key)
            return self._relay.open(list(options))

    def close(self) -> None:
        """Close all that was made here."""
        with self._lock:
            made, self._made = self._made, {}
            relay, self._relay = self._relay, None
        for name in ("httpx", "requests", "grpc"):
            if name in made:
                made[name].close()
        if relay is not None:
            relay.close()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            made = make()
            with self._lock:
                self._made.setdefault(name, made)
        return self._made[name]


def connect(
    url: str,
    *,
    policy: ClientPolicy | str | os.PathLike[str],
    client_key: str | os.PathLike[str] | None = None,
    on_attestation: Callable[[Verdict], None] | None = None,
) -> Connection:
    """Have the service at `url` (https://host[:port]) prove itself; nothing else is sent before it has.

    policy: a file of docs/formats/client-policy-v1.md, or one that was read. client_key: PEM file of a P-256
    key, for services that admit only known clients. on_attestation: called with each verdict, good or bad.

    Raises:
        ClientPolicyError, KeyFileError: a file cannot be used. ServiceNotProvedError: the policy is not met;
        all failed checks are named. ServiceUnreachableError: no answer.
    """
    read = policy if isinstance(policy, ClientPolicy) else load_policy(Path(policy))
    service = AttestedService(url, read, on_attestation=on_attestation)
    connection = Connection(service, None if client_key is None else Path(client_key))
    if client_key is not None:
        connection.ssl_context.get_ca_certs()  # a key that cannot be used is told before anything else
    service.ensure()
    return connection
