"""The network shield of one program: key and tunnel of the relay, the interceptor, the confined start."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Literal

from securetf._core import Denial, NetworkKey, NetworkListener, NetworkShield
from securetf.errors import NetworkShieldError, UsageError
from securetf.provisioning import NetworkGrant

__all__ = ["Denial", "Interceptor", "ProgramNetwork", "address"]

Interceptor = Literal["auto", "namespace", "seccomp"]


class ProgramNetwork:
    """Calls may come from several threads, but not two that change the key at once."""

    def __init__(
        self,
        *,
        tunnel: str,
        advertise: str | None,
        interceptor: Interceptor,
        outside: Mapping[str, str] | None = None,
    ) -> None:
        """Take what the host says; it decides nothing but where this member is reached.

        outside: name of each `outside` rule to the IP:PORT on which its clients are met.

        Raises:
            UsageError: one is not IP:PORT, or nothing says which address others can use.
        """
        self._outside = {name: address(text, "--outside") for name, text in (outside or {}).items()}
        self._public: list[tuple[str, NetworkListener]] = []
        self._tunnel = address(tunnel, "--tunnel")
        self._advertise = None if advertise is None else address(advertise, "--advertise")
        if self._advertise is None and self._tunnel[0].is_unspecified:
            raise UsageError(
                f"`--tunnel {tunnel}` listens on every address, so others cannot be told which to use",
                "add `--advertise IP:PORT`, or name one address in `--tunnel`",
            )
        if self._advertise is not None and self._advertise[1] == 0 and self._tunnel[1] != 0:
            self._advertise = (self._advertise[0], self._tunnel[1])
        self._interceptor: Interceptor = interceptor
        self._listener: NetworkListener | None = None
        self._key: NetworkKey | None = None
        self._shield: NetworkShield | None = None

    def endpoint(self) -> str:
        """Listen for tunnels and for clients, if not done yet; return the address that others are told.

        Raises:
            PortInUseError: the port is taken. EnvironmentUnfitError: the address is not this machine's.
        """
        if self._listener is None:
            self._public = [
                (name, NetworkListener.bind(_text(where))) for name, where in self._outside.items()
            ]
            self._listener = NetworkListener.bind(_text(self._tunnel))
        bound = address(self._listener.address, "--tunnel")
        told = self._advertise or bound
        return _text((told[0], told[1] or bound[1]))

    def new_key(self) -> bytes:
        """Make the relay's next key; return its public half, DER SPKI."""
        self._key = NetworkKey.generate()
        return self._key.spki

    def raise_shield(self, policy: str, grant: NetworkGrant | None) -> None:
        """Raise relay and interceptor, self-test included; without a grant there is no relay.

        Raises:
            NetworkShieldError: it cannot be raised here, or the self-test found a way around it.
        """
        key = self._key if grant is not None else None
        self._shield = NetworkShield.raise_shield(
            policy,
            key,
            grant.chain if grant is not None else [],
            grant.trust_root if grant is not None else b"",
            tunnel=self._listener if grant is not None else None,
            outside=self._public,
            interceptor=self._interceptor,
        )
        self._key = None

    def hosts(self) -> str:
        """Return the text of the program's /etc/hosts."""
        return self._raised().hosts

    def resolv_conf(self) -> str:
        """Return the text of the program's /etc/resolv.conf."""
        return self._raised().resolv_conf

    def spawn(
        self, command: list[bytes], environment: Mapping[bytes, bytes], directory: str, uid: int | None
    ) -> int:
        """Start the program confined, as a child of the calling thread, with which it dies.

        Raises:
            LaunchError: it cannot be executed; the message names the step.
        """
        return self._raised().spawn(command, dict(environment), directory, uid)

    def set_endpoints(self, endpoints: list[tuple[str, int, str]]) -> None:
        """Say where the tunnels of (workload, instance) are; what is no IP:PORT is left out."""
        self._raised().set_endpoints([one for one in endpoints if _is_address(one[2])])

    def install(self, grant: NetworkGrant) -> None:
        """Go on with the last new key and its certificate; live connections move to it."""
        self._raised().install(grant.chain, self._key)
        self._key = None

    def set_statement(self, public: str, claims: str, key: bytes) -> None:
        """Answer this to clients outside that ask what they talk to; a shield without a relay answers nobody.

        public, claims: JSON objects, all but what the relay adds for each connection
        (docs/formats/service-statement-v1.md). key: the attested key, PKCS #8.
        """
        self._raised().set_statement(public, claims, key)

    def revoke(self, reason: str) -> None:
        """Cut all connections, and refuse new ones for ever."""
        if self._shield is not None:
            self._shield.revoke(reason)

    def denials(self) -> tuple[Sequence[Denial], int]:
        """Return the refusals since the last call, and how many more there were."""
        return self._shield.denials() if self._shield is not None else ([], 0)

    def fallback(self) -> str | None:
        """Return why `auto` did not take the namespace."""
        return self._shield.fallback if self._shield is not None else None

    def stats(self) -> Mapping[str, object]:
        """Return interceptor, tunnel address and counts."""
        if self._shield is None:
            return {}
        return {"interceptor": self._shield.interceptor, **self._shield.stats()}

    def lower(self) -> None:
        """Take everything down; a second call does nothing."""
        shield, self._shield, self._listener, self._public = self._shield, None, None, []
        if shield is not None:
            shield.lower()

    def _raised(self) -> NetworkShield:
        if self._shield is None:
            raise NetworkShieldError("the network shield is not raised", "report it: a defect in securetf")
        return self._shield


_Address = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def address(text: str, option: str) -> _Address:
    """Read "IP:PORT" or "[IPv6]:PORT". Raises UsageError naming the option."""
    host, separator, port = text.rpartition(":")
    try:
        number = int(port) if port.isascii() and port.isdigit() else -1
        found = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        found, number = ipaddress.IPv4Address(0), -1
    if not separator or not 0 <= number <= 65535 or (found.version == 6) != host.startswith("["):
        raise UsageError(
            f"`{option} {text}` is not IP:PORT", "write it as 10.0.0.5:15443 or [2001:db8::5]:15443"
        )
    return found, number


def _text(where: _Address) -> str:
    host, port = where
    return f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"


def _is_address(text: str) -> bool:
    try:
        address(text, "endpoint")
    except UsageError:
        return False
    return True
