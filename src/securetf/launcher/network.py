"""The network of one launch: raised after the mounts, watched while the program runs, lowered before them."""

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from securetf.errors import LaunchError, SecuretfError
from securetf.launcher import netfiles
from securetf.launcher.follow import Followers
from securetf.launcher.membership import Membership
from securetf.launcher.plan import LaunchPlan
from securetf.launcher.program import Program
from securetf.launcher.progress import Progress
from securetf.launcher.proof import Proof
from securetf.launcher.report import Report
from securetf.launcher.stages import Network, Offer, Provisioner, Shield, offer_of
from securetf.manifest import network as rules
from securetf.provisioning import Provision

GRACE_S = 10.0  # between SIGTERM and SIGKILL for a program whose membership has ended
NO_DOMAIN = "none"  # trust domain in the policy of a program that reaches nobody


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The two stages that the network of a launch talks to, and where it tells how far it is."""

    network: Network
    progress: Progress
    members_deadline_s: float = 600.0


class LaunchNetwork:
    """One launch's network, in the launcher's thread."""

    def __init__(self, planned: LaunchPlan, stages: Stages, report: Report) -> None:
        self._plan, self._network, self._progress = planned, stages.network, stages.progress
        self._deadline_s, self._report = stages.members_deadline_s, report
        self._membership: Membership | None = None
        self._proof: Proof | None = None
        self.say = stages.progress.say
        self.followers = Followers(self.say)
        self.covered: list[str] = []  # paths that have something of the shield on them
        self._ended = threading.Event()
        self.revoked: SecuretfError | None = None

    def offer(self) -> Offer | None:
        """Return what the attestation binds; None for a program that has no network."""
        return offer_of(self._network) if self._plan.networked else None

    def raise_shield(
        self, provision: Provision, provisioner: Provisioner, shield: Shield, undo: ExitStack
    ) -> None:
        """Raise the shield, and show the program its own names.

        Raises:
            LaunchError: the CAS gave no certificate. NetworkShieldError: it cannot be raised.
        """
        grant = provision.network
        if self._plan.networked and grant is None:
            raise LaunchError(
                "the CAS released no certificate for the network",
                "check that the CAS is of the same release as this launcher",
            )
        domain = grant.trust_domain if grant is not None else NO_DOMAIN
        policy = rules.policy(self._plan.manifest, self._plan.workload, self._plan.instance, domain)
        undo.callback(self._network.lower)
        self._network.raise_shield(policy, grant)
        fallback = self._network.fallback()
        if fallback is not None:
            self._progress.say(f"network: interceptor seccomp, since no namespace can be raised: {fallback}")

        def covered(path: str) -> None:
            self.covered.append(path)
            undo.callback(shield.unmount_memory, path)

        hidden = netfiles.cover(shield, self._network, covered)
        for directory in hidden:
            self._progress.say(f"network: {directory} is hidden from the program: it bypasses the shield")
        undo.callback(self._facts)
        if grant is not None:
            if self._plan.outside or self._plan.receipts:
                self._proof = Proof(self._plan, provisioner, self._network)
                undo.callback(self._proof.close)
                self._proof.begin(provision, grant)
                self.followers.tell(self._proof)
            me = (self._plan.workload, self._plan.instance)
            self._membership = Membership(
                provisioner,
                self._network,
                grant,
                me=me,
                progress=self._progress,
                proof=self._proof,
                follow=self.followers.see,
            )
            undo.callback(self._membership.stop)

    def wait_for_members(self, check: Callable[[], None]) -> dict[bytes, bytes]:
        """Wait for the members that the program needs; return the variables that follow from them."""
        if self._membership is None:
            return {}
        tf_config = self._membership.wait_until_ready(self._deadline_s, check)
        if self._plan.cluster and tf_config is None:
            raise LaunchError(
                f"the CAS gave no TF_CONFIG for the cluster {self._plan.cluster}",
                "check that the CAS is of the same release as this launcher",
            )
        identity = {} if self._proof is None else self._proof.environment()
        return identity if tf_config is None else {**identity, b"TF_CONFIG": tf_config.encode()}

    def spawn(self, command: list[bytes], environment: dict[bytes, bytes]) -> int:
        """Start the program confined; return its process id."""
        return self._network.spawn(command, environment, self._plan.working_directory, self._plan.user_id)

    def watch(self, program: Program, undo: ExitStack) -> None:
        """From now on a membership that ends ends the program, too."""
        if self._membership is None:
            return

        def end(error: SecuretfError) -> None:
            self.revoked = error
            self._progress.say(f"this member is revoked: [{error.code}] {error.problem}; ending the program")
            program.end(GRACE_S, self._ended)

        undo.callback(self._ended.set)
        self._membership.start(end)

    def program_ended(self) -> None:
        """The program has ended: nothing is left to be signalled."""
        self._ended.set()

    def _facts(self) -> None:
        facts = dict(self._network.stats())
        if self._membership is not None:
            facts |= {"renewals": self._membership.renewals, "refused": self._membership.denied}
        self._report.facts["network"] = facts


def give_to(uid: int, paths: list[str]) -> None:
    """Make directories and files of the launcher's own the program's user's. Raises LaunchError."""
    for path in paths:
        try:
            os.chown(path, uid, uid)
        except OSError as error:
            raise LaunchError(
                f"{path} cannot be given to user {uid}: {error.strerror}",
                "leave out `user_id`, or use another",
            ) from None
