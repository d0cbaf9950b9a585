"""The stages as `securetf run` uses them: the CAS, the platform's attester and the file-system shield."""

from collections.abc import Callable, Sequence
from pathlib import Path

from securetf.attester import Attester
from securetf.cas_client import CasClient, CasTrust, rekeying
from securetf.claims import Evidence, Platform
from securetf.errors import FuseUnavailableError, LaunchError
from securetf.keys import WorkloadKey
from securetf.launcher.plan import LaunchPlan
from securetf.launcher.report import Report
from securetf.launcher.stages import Anchor, Denial, MountBy, Mounted, Offer
from securetf.provisioning import NetworkGrant, Provision, VolumeGrant
from securetf.shields import ephemeral, filesystem, materialised
from securetf.shields.buckets import Place
from securetf.wire import MembersView
from securetf.wire.statement import CasProof


class CasProvisioner:
    """Attests the workload of `planned` to the pinned CAS."""

    def __init__(
        self, planned: LaunchPlan, trust: CasTrust, attester: Callable[[], Attester], report: Report
    ) -> None:
        self._plan, self._make_attester, self._report = planned, attester, report
        self._client = CasClient(trust)
        self._attester: Attester | None = None
        self._token = ""

    def measure(self) -> None:
        """Make the attester, which measures this software."""
        self._attester = _TimedAttester(self._make_attester(), self._report)

    def provision(self, offer: Offer | None) -> Provision:
        """Ask the CAS for what the Manifest gives to this workload."""
        self._token, provision = self._client.provision(
            self._plan.manifest.session.name,
            self._plan.workload,
            self._plan.manifest,
            self._measured(),
            self._plan.instance,
            network_spki=offer.spki if offer else None,
            endpoint=offer.endpoint if offer else None,
        )
        if offer is None:
            self._attester = None  # nothing will be renewed
        return provision

    def renew(self, offer: Offer) -> NetworkGrant:
        """Attest anew for the next certificate."""
        return self._client.renew(
            self._plan.manifest.session.name,
            self._plan.workload,
            self._plan.manifest,
            self._measured(),
            self._plan.instance,
            offer.spki,
            offer.endpoint,
        )

    def token(self, *, renew: bool) -> str:
        """Return the EAR of the attestation; with `renew`, attest anew for the next one."""
        if renew:
            session = self._plan.manifest.session.name
            self._token = self._client.refresh(session, self._plan.manifest, self._measured())
        return self._token

    def attested_key(self) -> WorkloadKey:
        """Return this member's key."""
        return self._client.attested_key(self._plan.manifest.session.name)

    def prove_cas(self) -> CasProof:
        """Have the CAS prove itself."""
        return self._client.prove_cas()

    def members(self) -> MembersView:
        """Ask who attested; signed by this member's key."""
        return self._client.members(self._plan.manifest.session.name)

    def leave(self) -> None:
        """Leave the session; signed by this member's key."""
        self._client.leave(self._plan.manifest.session.name)

    def report_denials(self, denials: Sequence[Denial], dropped: int) -> None:
        """Report refused connections; signed by this member's key."""
        self._client.report_denials(self._plan.manifest.session.name, denials, dropped)

    def _measured(self) -> Attester:
        if self._attester is None:
            raise LaunchError("nothing was measured", "call `measure` first")
        return self._attester

    def anchor(self, grant: VolumeGrant) -> Anchor:
        """Return `advance` for the volume of `grant`."""
        client, volume_id = self._client, grant.volume_id  # not the grant: it holds the key

        def advance(epoch: int, seq: int, root: bytes, new_seq: int, new_root: bytes) -> int:
            return client.advance(
                volume_id, epoch=epoch, seq=seq, root=root, new_seq=new_seq, new_root=new_root
            )

        return advance

    def end_rekey(self, volume_id: bytes, epoch: int, seq: int) -> None:
        """End a re-keying; signed by this member's key."""
        rekeying.end_rekey(self._client, volume_id, epoch=epoch, seq=seq)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class _TimedAttester:
    """Shows the time that the platform takes for its Evidence apart from the CAS's."""

    def __init__(self, attester: Attester, report: Report) -> None:
        self._attester, self._report = attester, report

    @property
    def platform(self) -> Platform:
        return self._attester.platform

    def attest(self, report_data: bytes) -> Evidence:
        with self._report.step("attest"):
            return self._attester.attest(report_data)


class FilesystemShield:
    """The native volumes, mounted or in memory."""

    def __init__(self, mount_by: MountBy, why_memory: str | None) -> None:
        """why_memory: why there are no mounts, as far as it is known; `auto` may find out more."""
        self._mount_by: MountBy = mount_by
        self._memory = None if why_memory is None else materialised.Memory(why_memory)

    def enter_namespace(self) -> None:
        """Enter a mount namespace of this thread's own."""
        filesystem.enter_mount_namespace()

    def mount_memory(self, path: str, *, size_bytes: int, mode: int) -> None:
        """Mount a tmpfs."""
        filesystem.mount_tmpfs(path, size_bytes=size_bytes, mode=mode)

    def unmount_memory(self, path: str) -> None:
        """Unmount a tmpfs."""
        filesystem.unmount(path)

    def cover_file(self, source: str, path: str) -> None:
        """Bind a file of ours over one of the machine's."""
        filesystem.cover_file(source, path)

    def bind(self, source: str, path: str) -> None:
        """Bind."""
        filesystem.bind_mount(source, path)

    def mount_ephemeral(self, name: str, directory: Path, path: str) -> Mounted:
        """Make and mount an ephemeral volume."""
        if self._memory is None:
            made = ephemeral.Ephemeral(name, directory)
            try:
                mount = self._mount(made.volume, path)
                if mount is not None:
                    return _MountedVolume(made.volume, mount, made.close)
            except BaseException:
                made.close()
                raise
            made.close()
        return self._in_memory().show(name, None, path, writable=True)

    def mount_volume(self, grant: VolumeGrant, anchor: Anchor, directory: Place, path: str) -> Mounted:
        """Open and mount one volume; if it cannot be shown, it is closed again."""
        volume = filesystem.open_volume(directory, grant, anchor)
        try:
            mount = self._mount(volume, path)
            if mount is not None:
                return _MountedVolume(volume, mount)
            memory = self._in_memory()
            if (grant.freshness, grant.writable) in (("follow", False), ("strict", True)):
                what = "is strict" if grant.writable else "follows its writer"
                raise FuseUnavailableError(
                    f"the volume {grant.name} {what}, and a copy in memory cannot be: {memory.why}",
                    "make FUSE available here, or set another `freshness` for it in the Manifest",
                )
            return memory.show(grant.name, volume, path, writable=grant.writable)
        except BaseException:
            volume.close()
            raise

    def _mount(self, volume: filesystem.Volume, path: str) -> filesystem.Mount | None:
        """Mount, or return None where volumes go to memory."""
        if self._memory is not None:
            return None
        try:
            return volume.mount(path)
        except FuseUnavailableError as error:
            if self._mount_by == "fuse":
                raise
            self._memory = materialised.Memory(error.problem)
            return None

    def _in_memory(self) -> materialised.Memory:
        if self._memory is None:
            raise LaunchError("a volume is neither mounted nor in memory", "report this")
        return self._memory


class _MountedVolume:
    def __init__(
        self, volume: filesystem.Volume, mount: filesystem.Mount, close: Callable[[], None] | None = None
    ) -> None:
        self._volume, self._mount, self._close = volume, mount, close

    def in_memory(self) -> None:
        return None

    def transport(self) -> str:
        return self._mount.stats().transport

    def integrity_errors(self) -> tuple[int, str]:
        stats = self._mount.stats()
        return stats.integrity_errors, stats.last_integrity_error

    def stale_errors(self) -> int:
        return self._mount.stats().stale_errors

    def newer(self, epoch: int, seq: int, root: bytes) -> Callable[[], None]:
        opened = self._volume.at(epoch, seq, root)

        def show() -> None:
            self._mount.follow(opened)
            self._volume = opened

        return show

    def rekey(self, stopped: Callable[[], bool]) -> tuple[int, int] | None:
        return filesystem.rekey_until(self._volume, stopped)

    def unmount(self) -> None:
        self._mount.unmount()

    def close(self) -> None:
        (self._close or self._volume.close)()
