"""The native module's network shield: typed here, imported from `securetf._core`."""

from typing import Literal, final

@final
class NetworkKey:
    """A P-256 key of the relay, made here and never exported."""

    @staticmethod
    def generate() -> NetworkKey: ...
    @property
    def spki(self) -> bytes:
        """The public half, DER SubjectPublicKeyInfo."""

@final
class NetworkListener:
    """A listening TCP socket for tunnels, bound before the attestation that advertises it."""

    @staticmethod
    def bind(address: str) -> NetworkListener:
        """Listen on "IP:PORT"; port 0 takes a free one. Raises PortInUseError, EnvironmentUnfitError."""

    @property
    def address(self) -> str: ...

@final
class Denial:
    """One refused connection. `time_s`: Unix seconds; `process`: "pid name", empty if not known."""

    @property
    def time_s(self) -> int: ...
    @property
    def direction(self) -> Literal["outbound", "inbound"]: ...
    @property
    def process(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def reason(self) -> str: ...

@final
class NetworkShield:
    """Relay and interceptor of one program. For all threads; `spawn` forks from the calling one."""

    @staticmethod
    def raise_shield(
        policy: str,
        key: NetworkKey | None,
        chain: list[bytes],
        trust_root: bytes,
        *,
        tunnel: NetworkListener | None,
        outside: list[tuple[str, NetworkListener]],
        interceptor: Literal["auto", "namespace", "seccomp"],
    ) -> NetworkShield:
        """Raise it and test it: a connection that the policy does not name must fail from inside.

        policy: JSON of crates/netshield/src/policy.rs. chain: certificates, DER, leaf first; trust_root: DER
        of the session's CA. outside: rule's name and listener, one for each such rule of the policy. key,
        tunnel and outside are taken over. Without a key there is no relay: nothing can be reached.

        Raises: NetworkShieldError.
        """

    @property
    def interceptor(self) -> Literal["namespace", "seccomp"]: ...
    @property
    def fallback(self) -> str | None:
        """Why "auto" did not take the namespace."""

    @property
    def hosts(self) -> str:
        """The text of the program's /etc/hosts."""

    @property
    def resolv_conf(self) -> str:
        """The text of the program's /etc/resolv.conf."""

    def spawn(
        self, argv: list[bytes], environment: dict[bytes, bytes], directory: str, uid: int | None
    ) -> int:
        """Start a program confined, with exactly this environment; return its process id.

        It dies with the calling thread, has no capabilities and gains no privileges. Raises LaunchError.
        """

    def set_endpoints(self, endpoints: list[tuple[str, int, str]]) -> None:
        """Where the tunnels of (workload, instance) are, "IP:PORT"; not trusted, certificates decide."""

    def install(self, chain: list[bytes], key: NetworkKey | None) -> None:
        """Go on with this certificate, and this key if it has a new one; live connections move to it."""

    def set_statement(self, public: str, claims: str, key: bytes) -> None:
        """What clients outside are told that ask: docs/formats/service-statement-v1.md. key: PKCS #8, P-256.

        Raises: NetworkShieldError.
        """

    def revoke(self, reason: str) -> None:
        """Cut all connections, and refuse new ones for ever."""

    def denials(self) -> tuple[list[Denial], int]:
        """The refusals since the last call, of which 1024 are kept, and how many more there were."""

    def stats(self) -> dict[str, int]: ...
    def lower(self) -> None:
        """Stop relay and interceptor; connections are reset. A second call does nothing."""
