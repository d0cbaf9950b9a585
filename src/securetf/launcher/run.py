"""Runs a `LaunchPlan`: each step is undone in reverse order, whatever happens after it."""

import os
import stat
import threading
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from securetf.errors import (
    CommitFailedError,
    EnvironmentUnfitError,
    FuseUnavailableError,
    LaunchError,
    SecuretfError,
    VolumeIntegrityError,
)
from securetf.launcher import secrets, watchdog
from securetf.launcher.hardening import harden, take_descriptors
from securetf.launcher.hostroot import HostRoot
from securetf.launcher.mountpoints import REGISTRY, MountPoints, make_directory
from securetf.launcher.network import LaunchNetwork, Stages, give_to
from securetf.launcher.plan import LaunchPlan, PlannedMount
from securetf.launcher.program import Cancelled, Program, Signals, check_program, end_descendants
from securetf.launcher.progress import Progress
from securetf.launcher.rekeying import Rekeying
from securetf.launcher.report import Report
from securetf.launcher.stages import MountBy, Mounted, Provisioner, Shield
from securetf.manifest.rules import HOME_MEMORY
from securetf.provisioning import Provision, VolumeGrant

FUSE_DEVICE = os.makedev(10, 229)  # linux/miscdevice.h, FUSE_MINOR
_FUSE_FIX = "load the kernel module fuse (`modprobe fuse`); in a container, pass the device /dev/fuse"


@dataclass(slots=True)
class Outcome:
    """How a run ended. status: of the program, or 128 + signal. problems: what failed after it had ended.

    revoked: why the program was ended by us.
    """

    status: int = 0
    started: bool = False
    problems: list[SecuretfError] = field(default_factory=list)
    revoked: SecuretfError | None = None


def check_host(
    planned: LaunchPlan,
    *,
    mount_by: MountBy = "auto",
    fuse: Path = Path("/dev/fuse"),
    device_number: int = FUSE_DEVICE,
) -> str | None:
    """Raise before anything is asked of the CAS if this machine cannot do what the plan needs.

    Return why volumes go to memory, or None if they are to be mounted.

    Raises:
        EnvironmentUnfitError: not root, or no devices. FuseUnavailableError: no FUSE, and nothing else is
        wanted.
        LaunchError: no directory of a volume.
    """
    if os.geteuid() != 0:
        raise EnvironmentUnfitError(
            f"running as user {os.geteuid()}, expected root: mounts need it", "start `securetf run` as root"
        )
    if not Path(os.devnull).is_char_device():
        raise EnvironmentUnfitError(
            f"{os.devnull} is not there, and programs need it",
            "mount a devtmpfs at /dev; in a container, pass the standard devices",
        )
    volumes = [one for one in planned.mounts if one.directory is not None]
    why = "`--mount-by memory` was given" if mount_by == "memory" else _without_fuse(fuse, device_number)
    if volumes and why is not None and mount_by == "fuse":
        raise FuseUnavailableError(why, _FUSE_FIX)
    for one in volumes:
        directory = one.directory
        if not isinstance(directory, Path) or directory.is_dir():
            continue  # a bucket is asked when it is opened
        if one.writable and not directory.exists() and directory.parent.is_dir():
            continue  # a volume that was never written: it is made when it is opened
        raise LaunchError(
            f"the volume {one.name} should lie in {directory}, which is not a directory",
            f"pack it there, or say where it is: `--volume {one.name}=DIR`",
        )
    return why


def _without_fuse(fuse: Path, device_number: int) -> str | None:
    """Return why nothing can be mounted, as far as the device tells."""
    try:
        device = os.open(fuse, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{fuse} cannot be opened: {error.strerror}"
    found = os.fstat(device)
    os.close(device)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != device_number:
        return f"{fuse} is not the device of FUSE"
    return None


def run(
    planned: LaunchPlan,
    *,
    provisioner: Provisioner,
    shield: Shield,
    network: Stages,
    report: Report,
    registry: Path = REGISTRY,
) -> Outcome:
    """Run the program of `planned` and return how it ended. Must be called in the main thread.

    Raises:
        SecuretfError: what stopped it before the program ran; all that was done is undone.
        VolumeIntegrityError: the program ended with 0, but was refused data that does not authenticate.
        CommitFailedError: the program ended with 0, but its last writes could not be anchored.
        ManifestHashError, FencedError, …: the program was ended, because its membership has.
    """
    harden()
    signals = Signals()
    signals.install()
    outcome = Outcome()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            launched = _Launch(
                planned, shield, LaunchNetwork(planned, network, report), report, signals, outcome
            )
            launched.run(provisioner, network.progress, registry)
        except BaseException as error:  # noqa: BLE001  (carried to the main thread)
            failure.append(error)
        finally:
            signals.done()

    # Signals belong to the main thread; the mount namespace, the fork and the wait to this one.
    thread = threading.Thread(target=work, name="launcher", daemon=True)
    thread.start()
    signals.wait_for(thread)
    signals.ended()
    if failure and not isinstance(failure[0], Cancelled):
        raise failure[0]
    if failure:
        outcome.status = 128 + (signals.cancelled or 0)
    if outcome.revoked is not None:
        raise outcome.revoked
    if outcome.problems and outcome.status == 0:
        raise _failure(outcome.problems)
    return outcome


class _Launch:
    """One run, in the namespace's thread."""

    def __init__(
        self,
        planned: LaunchPlan,
        shield: Shield,
        network: LaunchNetwork,
        report: Report,
        signals: Signals,
        outcome: Outcome,
    ) -> None:
        self._plan, self._shield, self._network, self._report = planned, shield, network, report
        self._signals, self._outcome = signals, outcome
        self._mounted: list[PlannedMount] = []
        self._root: HostRoot | None = None

    def run(self, provisioner: Provisioner, progress: Progress, registry: Path) -> None:
        """Do all steps; the ExitStack undoes them."""
        with ExitStack() as undo:
            undo.callback(provisioner.close)
            progress.state("attesting")
            with self._report.step("measure"):
                provisioner.measure()
            self._signals.check()
            with self._report.step("provision"):
                provision = provisioner.provision(self._network.offer())
                self._check(provision)
            self._signals.check()
            with self._report.step("mount"):
                points = undo.enter_context(MountPoints(registry))
                self._shield.enter_namespace()
                self._mount_all(provisioner, provision, points, undo)
            self._signals.check()
            with self._report.step("network"):
                self._network.raise_shield(provision, provisioner, self._shield, undo)
            self._signals.check()
            with self._report.step("secrets"):
                environment = self._hand_over(provision)
                self._build_root(points, undo)
            del provision
            with self._report.step("members"):
                environment |= self._network.wait_for_members(self._signals.check)
            self._signals.check()
            with self._report.step("start"):
                undo.callback(end_descendants)
                self._watchdog = watchdog.start()  # ends when this is dropped
                program = self._start(environment, undo)
            del environment
            self._report.started()
            progress.state("running")
            with self._report.step("program"):
                self._outcome.status = program.wait()
                self._signals.ended()
                self._network.program_ended()
            self._report.ended(self._outcome.status)
            with self._report.step("unmount and commit"):
                undo.close()
            self._outcome.revoked = self._network.revoked  # the membership's thread has ended by now

    def _start(self, environment: dict[bytes, bytes], undo: ExitStack) -> Program:
        command = [os.fsencode(word) for word in self._plan.command]
        with nullcontext() if self._root is None else self._root.entered():
            check_program(self._plan.command[0], environment, self._plan.working_directory)
            program = Program(self._network.spawn(command, environment))
        take_descriptors()
        self._signals.running(program)
        self._outcome.started = True
        self._network.watch(program, undo)
        return program

    def _build_root(self, points: MountPoints, undo: ExitStack) -> None:
        if self._plan.host_paths is not None:

            def mounted(path: str) -> None:
                undo.callback(self._shield.unmount_memory, path)

            self._root = HostRoot(self._shield, mounted)
            self._root.build(self._plan, self._network.covered, points)

    def _check(self, provision: Provision) -> None:
        """The CAS answered for this Manifest and this workload, or the plan does not fit what it released."""
        if provision.manifest_hash != self._plan.manifest_hash:
            raise LaunchError(
                f"the CAS released for the Manifest sha256:{provision.manifest_hash.hex()}, "
                f"expected sha256:{self._plan.manifest_hash.hex()}",
                "use the Manifest that is current in the CAS: `securetf session read`",
            )
        granted = {grant.name: grant.writable for grant in provision.volumes}
        wanted = {one.name: one.writable for one in self._plan.mounts if one.kind == "volume"}
        named = {*self._plan.secret_files.values(), *self._plan.secret_variables.values()}
        missing = sorted(named - set(provision.secrets))
        if granted != wanted or missing:
            raise LaunchError(
                f"the CAS released the volumes {sorted(granted.items())} and not the secrets {missing}, "
                f"expected the volumes {sorted(wanted.items())} and all secrets",
                "check that the CAS is of the same release as this launcher",
            )

    def _mount_all(
        self, provisioner: Provisioner, provision: Provision, points: MountPoints, undo: ExitStack
    ) -> None:
        grants = {grant.name: grant for grant in provision.volumes}
        for one in self._plan.mounts:
            self._signals.check()
            self._mount_point(one, points, undo)
            if one.kind in ("volume", "ephemeral") and one.directory is None:
                raise LaunchError(f"the volume {one.name} has no directory", "give one with `--volume`")
            if one.kind == "ephemeral" and isinstance(one.directory, Path):
                mounted = self._shield.mount_ephemeral(one.name, one.directory, one.path)
                self._shown(one, mounted, undo)
            elif one.kind == "volume" and one.directory is not None:
                grant = grants[one.name]
                mounted = self._shield.mount_volume(grant, provisioner.anchor(grant), one.directory, one.path)
                self._report.mounted(one.name, writable=grant.writable, freshness=grant.freshness)
                if grant.freshness == "follow" and not grant.writable:
                    self._network.followers.add(one.name, mounted, grant.seq)
                self._shown(one, mounted, undo)
                self._rekey(grant, mounted, provisioner, undo)
            else:
                mode = secrets.DIRECTORY_MODE if one.kind == "secrets" else 0o755
                self._shield.mount_memory(one.path, size_bytes=one.size_bytes, mode=mode)
                undo.callback(self._shield.unmount_memory, one.path)
                self._fill_memory(one)
            self._mounted.append(one)
        self._give_away()

    def _shown(self, one: PlannedMount, mounted: Mounted, undo: ExitStack) -> None:
        """See to its end, and say aloud what is no mount."""
        undo.callback(self._take_down, mounted, one.name)
        why = mounted.in_memory()
        if why is None:
            self._report.served(one.name, mounted.transport())
            return
        kept = one.kind == "volume" and one.writable
        when = "; what the program changes is kept when it has ended, not before" if kept else ""
        self._network.say(f"volume {one.name}: in memory, not mounted: {why}{when}")
        self._report.in_memory(one.name, why)

    def _rekey(self, grant: VolumeGrant, mounted: Mounted, provisioner: Provisioner, undo: ExitStack) -> None:
        if grant.writable and grant.older_key is not None:
            rekeying = Rekeying(grant, mounted, provisioner, self._report, self._network.say)
            rekeying.start()
            undo.callback(rekeying.stop)

    def _fill_memory(self, one: PlannedMount) -> None:
        for name in ("home", "tmp") if one.path == HOME_MEMORY else ():
            os.mkdir(f"{HOME_MEMORY}/{name}", 0o700)

    def _give_away(self) -> None:
        """Let the program's own user, if it has one, write where the program may write."""
        if self._plan.user_id is None:
            return
        own = [f"{HOME_MEMORY}/{name}" for name in ("home", "tmp")]
        writable = [one.path for one in self._mounted if one.writable and one.path != HOME_MEMORY]
        give_to(self._plan.user_id, own + writable)

    def _mount_point(self, one: PlannedMount, points: MountPoints, undo: ExitStack) -> None:
        """See to it that the mount point exists: on the host's file system, or inside a mount of ours."""
        below = [other for other in self._mounted if one.path.startswith(other.path + "/")]
        if not below:
            points.make(one.path)
            if one.kind == "secrets" and os.listdir(one.path):
                raise LaunchError(
                    f"{one.path} is for secrets alone, but holds {os.listdir(one.path)[0]}",
                    "use a directory that holds nothing else, such as file:/run/secrets/NAME",
                )
            return
        if os.path.isdir(one.path):
            return
        if not below[-1].writable:
            raise LaunchError(
                f"{one.path} does not exist in the volume {below[-1].name}, which is read-only",
                "pack the volume with that directory, or mount elsewhere",
            )
        for parent in [*reversed(Path(one.path).parents), Path(one.path)]:
            if not parent.is_dir():
                make_directory(str(parent))
                undo.callback(_remove_empty, str(parent))

    def _hand_over(self, provision: Provision) -> dict[bytes, bytes]:
        """Write the secret files; return the program's whole environment."""
        secrets.write_files(self._plan.secret_files, provision.secrets)
        if self._plan.user_id is not None:
            give_to(self._plan.user_id, list(self._plan.secret_files))
        environment = {name.encode(): os.fsencode(value) for name, value in self._plan.environment.items()}
        found = secrets.variables(self._plan.secret_variables, provision.secrets, self._plan.hexadecimal)
        return {**environment, **found}

    def _take_down(self, mounted: Mounted, name: str) -> None:
        """Unmount and commit one volume; what fails is kept, so that the others are still committed."""
        count, last = mounted.integrity_errors()
        if count:
            self._outcome.problems.append(_tampered(name, count, last))
        if stale := mounted.stale_errors():
            self._network.say(
                f"volume {name}: {stale} reads of older states failed: they were overwritten, or damaged"
            )
            self._report.stale(name, stale)
        for action in (mounted.unmount, mounted.close):
            try:
                action()
            except SecuretfError as error:
                self._outcome.problems.append(type(error)(f"volume {name}: {error.problem}", error.fix))


def _remove_empty(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        return  # the program put something there: it is the program's now


def _tampered(name: str, count: int, last: str) -> VolumeIntegrityError:
    return VolumeIntegrityError(
        f"volume {name}: the program got {count} errors instead of data that does not authenticate; "
        f"the last: {last}",
        "put back the volume's files as they were committed: they were damaged or tampered with",
    )


def _failure(problems: list[SecuretfError]) -> SecuretfError:
    """Return the error of a program that ended with 0 and yet did not do its work."""
    tampered = [error for error in problems if isinstance(error, VolumeIntegrityError)]
    texts = "; ".join(error.problem for error in problems)
    if tampered:
        return type(tampered[0])(f"the program ended with 0, but {texts}", tampered[0].fix)
    return CommitFailedError(
        f"the program ended with 0, but its last writes are not acknowledged: {texts}", problems[0].fix
    )
