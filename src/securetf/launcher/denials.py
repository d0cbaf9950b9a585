"""Refused connections on their way to standard error and to the CAS's audit log; repetitions are counted."""

from collections.abc import Callable, Sequence

from securetf.errors import SecuretfError
from securetf.launcher.stages import Denial, Network, Provisioner

BATCH = 64  # refusals in one message to the CAS
KEPT = 1024  # refusals kept while the CAS is away; older ones are dropped, and counted
SUMMARY_S = 60.0  # between the lines that count repetitions
MAX_KINDS = 1024  # different refusals that are told apart
_OTHERS = ("outbound or inbound", "other destinations", "as above")


class Denials:
    """Not thread-safe: one thread at a time."""

    def __init__(
        self,
        network: Network,
        provisioner: Provisioner,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._network, self._provisioner, self._say, self._clock = network, provisioner, say, clock
        self._waiting: list[Denial] = []
        self._repeated: dict[tuple[str, str, str], int] = {_OTHERS: 0}
        self._summary_at = clock() + SUMMARY_S
        self._dropped = 0
        self.total = 0

    def forward(self) -> None:
        """Tell what was refused since the last call; a CAS that is away gets it later."""
        new, more = self._network.denials()
        self.total += len(new) + more
        self._print(new)
        self._waiting.extend(new)
        self._dropped += more + max(0, len(self._waiting) - KEPT)
        del self._waiting[:-KEPT]
        while self._waiting:
            batch = self._waiting[:BATCH]
            try:
                self._provisioner.report_denials(batch, self._dropped)
            except SecuretfError:
                return  # the membership's next poll says why
            self._dropped = 0
            del self._waiting[: len(batch)]

    def finish(self) -> None:
        """Tell the last ones and the counts."""
        self.forward()
        self._summarise()
        if self._waiting or self._dropped:
            count = len(self._waiting) + self._dropped
            self._say(f"network: {count} refused connections did not reach the CAS's audit log")

    def _print(self, new: Sequence[Denial]) -> None:
        for one in new:
            kind = (one.direction, one.destination, one.reason)
            if kind not in self._repeated and len(self._repeated) >= MAX_KINDS:
                kind = _OTHERS
            if kind in self._repeated:
                self._repeated[kind] += 1
                continue
            self._repeated[kind] = 0
            by = f" by {one.process}" if one.process else ""
            self._say(f"network: refused {one.direction} {one.destination}{by}: {one.reason}")
        if self._clock() >= self._summary_at:
            self._summarise()

    def _summarise(self) -> None:
        for (direction, destination, reason), count in self._repeated.items():
            if count:
                self._say(f"network: refused {direction} {destination} {count} times more: {reason}")
        self._repeated = dict.fromkeys(self._repeated, 0)
        self._summary_at = self._clock() + SUMMARY_S
