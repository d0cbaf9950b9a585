"""Keeps a running program a member of its session: who the others are, the next certificate, refusals told.

One thread polls the CAS; before the program runs, the launcher's thread does it. What the CAS says decides
over this member alone: whether others are who they are is decided by their certificates, in the relay.
"""

import threading
import time
from collections.abc import Callable, Mapping

from securetf.errors import (
    AppraisalError,
    EvidenceError,
    FencedError,
    ManifestHashError,
    MembersMissingError,
    NonceError,
    NotFoundError,
    SecuretfError,
)
from securetf.launcher.denials import Denials
from securetf.launcher.progress import Progress
from securetf.launcher.proof import Proof
from securetf.launcher.stages import Network, Provisioner, offer_of
from securetf.provisioning import NetworkGrant
from securetf.wire import VolumeHead

TICK_S = 1.0  # between polls until all members are there; also how often refusals are told
POLL_S = 5.0  # between polls after that
SAY_AGAIN_S = 30.0
# These end the membership; after any other error of the CAS it is asked again, until the certificate expires.
FINAL = (ManifestHashError, FencedError, NotFoundError, EvidenceError, AppraisalError)


class Membership:
    """Made with the first grant. Call `wait_until_ready`, then `start`, at the end `stop`."""

    def __init__(
        self,
        provisioner: Provisioner,
        network: Network,
        grant: NetworkGrant,
        *,
        me: tuple[str, int],
        progress: Progress,
        proof: Proof | None = None,
        follow: Callable[[Mapping[str, VolumeHead]], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """proof: what is kept fresh for clients outside of the session, if there are any. follow: is told at
        each poll where the volumes stand that this member follows.
        """
        self._provisioner, self._network, self._me = provisioner, network, me
        self._follow = follow
        self._progress, self._proof, self._clock = progress, proof, clock
        self._lifetime_s = float(grant.lifetime_s)
        self._renew_at = clock() + self._lifetime_s / 2
        self._poll_at = clock()
        self._ready = False
        self._missing: list[str] = []
        self._tf_config: str | None = None
        self._trouble, self._ended = "", False
        self._denials = Denials(network, provisioner, progress.say, clock)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.renewals = 0

    @property
    def denied(self) -> int:
        """How many connections were refused so far."""
        return self._denials.total

    def wait_until_ready(self, deadline_s: float, check: Callable[[], None]) -> str | None:
        """Wait for the members that this one needs; return its TF_CONFIG, if it is in a cluster.

        check: called between polls; what it raises ends the wait.

        Raises:
            MembersMissingError: they did not come within `deadline_s` seconds.
            SecuretfError: the CAS does not want this member any more.
        """
        begin = self._clock()
        said_at, said = begin - SAY_AGAIN_S, ""
        while True:
            self.tick()
            if self._ready:
                if said:
                    self._progress.say(f"all members are there after {self._clock() - begin:.0f} s")
                return self._tf_config
            now = self._clock()
            names = ", ".join(self._missing) or "the CAS's answer"
            if now - begin >= deadline_s:
                raise MembersMissingError(
                    f"after {deadline_s:.0f} s these members have not attested: {names}",
                    "start them, or see in their logs why they were refused; "
                    "`--members-deadline` waits longer",
                )
            if names != said or now - said_at >= SAY_AGAIN_S:
                self._progress.state("waiting", names)
                left = f"{begin + deadline_s - now:.0f} s more at most"
                self._progress.say(f"waiting for {names} to attest ({left})")
                said, said_at = names, now
            check()
            self._stopped.wait(TICK_S)

    def tick(self) -> None:
        """Do what is due. Raises SecuretfError when this membership has ended for good."""
        self._denials.forward()
        now = self._clock()
        try:
            if now >= self._poll_at:
                self._poll_at = now + (POLL_S if self._ready else TICK_S)
                self._poll()
            if now >= self._renew_at:
                self._renew_at = now + min(POLL_S, self._lifetime_s / 10)  # should it fail
                self._renew()
            if self._proof is not None:
                self._proof.tick()
        except NonceError as error:
            self._tell(error)
        except FINAL as error:
            self._end(error.problem)
            raise
        except SecuretfError as error:
            self._tell(error)
        else:
            self._tell(None)

    def start(self, end: Callable[[SecuretfError], None]) -> None:
        """Go on in a thread; `end` is called once if the membership ends for good."""
        self._thread = threading.Thread(target=self._run, args=(end,), name="membership", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, tell what was refused last, and leave."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._denials.finish()
        self._leave()

    def _leave(self) -> None:
        """Have nobody count on this member; a CAS that is away does, until its certificate ends."""
        if self._trouble or self._ended:
            return
        try:
            self._provisioner.leave()
        except SecuretfError as error:
            self._progress.say(f"membership: [{error.code}] {error.problem}; this member did not leave")

    def _run(self, end: Callable[[SecuretfError], None]) -> None:
        while not self._stopped.wait(TICK_S):
            try:
                self.tick()
            except SecuretfError as error:
                end(error)
                return
            except Exception as error:  # noqa: BLE001  (a defect of ours: closed, not open)
                reason = f"the membership's thread ended with {type(error).__name__}"
                self._end(reason)
                end(SecuretfError(reason, "report it: a defect in securetf"))
                return

    def _end(self, reason: str) -> None:
        self._ended = True
        self._network.revoke(reason)

    def _poll(self) -> None:
        view = self._provisioner.members()
        endpoints = [
            (one.workload, one.instance, one.endpoint)
            for one in view.members
            if one.endpoint and (one.workload, one.instance) != self._me
        ]
        self._network.set_endpoints(endpoints)
        self._missing, self._tf_config = list(view.missing), view.tf_config
        self._ready = view.ready
        self._follow(view.volumes)

    def _renew(self) -> None:
        grant = self._provisioner.renew(offer_of(self._network))
        self._network.install(grant)
        if self._proof is not None:
            self._proof.install(grant)
        self._lifetime_s = float(grant.lifetime_s)
        self._renew_at = self._clock() + self._lifetime_s / 2
        self.renewals += 1

    def _tell(self, error: SecuretfError | None) -> None:
        """Say a trouble once, and its end."""
        text = error.problem if error else ""
        if text != self._trouble:
            again = "the CAS answers again; this member goes on"
            self._progress.say(f"membership: [{error.code}] {text}; trying again" if error else again)
            self._trouble = text
