"""What the launcher needs of the stages before it, as Protocols: they are given as arguments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from securetf.keys import WorkloadKey
from securetf.provisioning import NetworkGrant, Provision, VolumeGrant
from securetf.shields.buckets import Place
from securetf.wire import MembersView
from securetf.wire.statement import CasProof

MountBy = Literal["auto", "fuse", "memory"]  # how volumes are shown; auto: memory where FUSE is not to be had
# (epoch, seq, root, new_seq, new_root): seconds for which older states are leased, or it raises
Anchor = Callable[[int, int, bytes, int, bytes], int | None]


class Provisioner(Protocol):
    """Attests to the CAS and returns what it releases."""

    def measure(self) -> None:
        """Measure this software and make the attester ready."""
        ...

    def provision(self, offer: "Offer | None") -> Provision:
        """Challenge, Evidence, and the opened Provision; with an offer, a certificate for the relay, too."""
        ...

    def renew(self, offer: "Offer") -> NetworkGrant:
        """Attest anew and return the next certificate."""
        ...

    def token(self, *, renew: bool) -> str:
        """Return the EAR of the attestation; with `renew`, of a new one."""
        ...

    def attested_key(self) -> WorkloadKey:
        """Return the key in the `cnf` of the EAR."""
        ...

    def prove_cas(self) -> CasProof:
        """Return the CAS's Evidence and token key, as others will want to check them."""
        ...

    def members(self) -> MembersView:
        """Return who attested for this session, and this member's TF_CONFIG once all are there."""
        ...

    def leave(self) -> None:
        """Tell the CAS that this member's program has ended."""
        ...

    def report_denials(self, denials: "Sequence[Denial]", dropped: int) -> None:
        """Put refused connections into the CAS's audit log; `dropped` more could not be kept."""
        ...

    def anchor(self, grant: VolumeGrant) -> Anchor:
        """Return what makes new roots of this volume count at the CAS; native threads call it."""
        ...

    def end_rekey(self, volume_id: bytes, epoch: int, seq: int) -> None:
        """Tell the CAS that nothing from the state `seq` of this volume on needs its older key."""
        ...

    def close(self) -> None:
        """Close the connection; called last, also when `provision` was never called."""
        ...


class Mounted(Protocol):
    """One volume that is shown to the program."""

    def in_memory(self) -> str | None:
        """Return why it is a copy in memory, which is kept by `close` alone; None for a mount."""
        ...

    def transport(self) -> str:
        """Return how the kernel reaches a mount: "io_uring" or "dev_fuse"; nothing for a copy in memory."""
        ...

    def integrity_errors(self) -> tuple[int, str]:
        """Return how many answers to the program were integrity errors, and the last one's text."""
        ...

    def stale_errors(self) -> int:
        """Return how many answers were errors because a state that is followed no more could not be read."""
        ...

    def newer(self, epoch: int, seq: int, root: bytes) -> Callable[[], None]:
        """Open a newer state of a volume that is followed; return what shows it from then on.

        Raises VolumeRollbackError, VolumeIntegrityError, …: what is mounted stays.
        """
        ...

    def rekey(self, stopped: Callable[[], bool]) -> tuple[int, int] | None:
        """Seal everything anew beside the program.

        Returns epoch and sequence of the state from which on nothing needs the older key; None: stopped.
        """
        ...

    def unmount(self) -> None:
        """Take it out of the namespace; after this nothing writes it any more."""
        ...

    def close(self) -> None:
        """Commit what was written, anchor it and forget the key. Raises if it could not be anchored."""
        ...


class Shield(Protocol):
    """The file-system shield. The launcher calls it from one thread."""

    def enter_namespace(self) -> None:
        """Give the calling thread, and what it starts, a mount namespace of its own."""
        ...

    def mount_memory(self, path: str, *, size_bytes: int, mode: int) -> None:
        """Mount an empty tmpfs on `path`."""
        ...

    def unmount_memory(self, path: str) -> None:
        """Unmount the tmpfs on `path`."""
        ...

    def cover_file(self, source: str, path: str) -> None:
        """Show `source` at `path`, which exists and is of the same kind, read-only."""
        ...

    def bind(self, source: str, path: str) -> None:
        """Show `source` also at `path`, which exists and is of the same kind."""
        ...

    def mount_ephemeral(self, name: str, directory: Path, path: str) -> Mounted:
        """Show an empty volume on `path`, gone when closed; mounted, it is ciphertext in `directory`."""
        ...

    def mount_volume(self, grant: VolumeGrant, anchor: Anchor, directory: Place, path: str) -> Mounted:
        """Open the volume in `directory`, or in a bucket, and show it on `path`, mounted or in memory."""
        ...


@dataclass(frozen=True, slots=True)
class Offer:
    """What a member brings to an attestation: its relay's public key (DER SPKI), where its tunnel listens."""

    spki: bytes
    endpoint: str


def offer_of(network: "Network") -> Offer:
    """Return an offer with a fresh key."""
    return Offer(network.new_key(), network.endpoint())


class Denial(Protocol):
    """One refused connection. direction: `outbound` or `inbound`; process: `pid name`, empty if not known."""

    @property
    def time_s(self) -> int: ...
    @property
    def direction(self) -> str: ...
    @property
    def process(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Network(Protocol):
    """The network shield of one program. Calls come from the launcher's thread and from the membership's."""

    def endpoint(self) -> str:
        """Listen for tunnels and clients, if not done yet; return the address that others are told.

        Raises PortInUseError.
        """
        ...

    def new_key(self) -> bytes:
        """Make the relay's next key; return its public half, DER. The old one is used until `install`."""
        ...

    def raise_shield(self, policy: str, grant: NetworkGrant | None) -> None:
        """Raise it with the last new key, self-test included; without a grant nothing is reachable.

        Raises NetworkShieldError.
        """
        ...

    def hosts(self) -> str:
        """Return the text of the program's /etc/hosts."""
        ...

    def resolv_conf(self) -> str:
        """Return the text of the program's /etc/resolv.conf."""
        ...

    def spawn(
        self, command: list[bytes], environment: Mapping[bytes, bytes], directory: str, uid: int | None
    ) -> int:
        """Start the program confined, as a child of the calling thread; return its process id."""
        ...

    def set_endpoints(self, endpoints: list[tuple[str, int, str]]) -> None:
        """Say where the tunnels of (workload, instance) are; replaces what was said before."""
        ...

    def set_statement(self, public: str, claims: str, key: bytes) -> None:
        """Answer this to clients outside of the session: JSON objects, and the attested key as PKCS #8."""
        ...

    def install(self, grant: NetworkGrant) -> None:
        """Go on with the last new key and its certificate."""
        ...

    def revoke(self, reason: str) -> None:
        """Cut all connections, and refuse new ones for ever."""
        ...

    def denials(self) -> tuple[Sequence[Denial], int]:
        """Return the refusals since the last call, and how many more there were."""
        ...

    def fallback(self) -> str | None:
        """Return why `auto` did not take the namespace."""
        ...

    def stats(self) -> Mapping[str, object]:
        """Return what the report shows."""
        ...

    def lower(self) -> None:
        """Take it down; a second call, or one before it was raised, does nothing."""
        ...
