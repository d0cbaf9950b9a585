"""Re-keying a volume beside the program that writes it: begun by its owner, ended by telling the CAS."""

import threading
from collections.abc import Callable

from securetf.errors import SecuretfError
from securetf.launcher.report import Report
from securetf.launcher.stages import Mounted, Provisioner
from securetf.provisioning import VolumeGrant


class Rekeying:
    """Seals one volume anew in a thread of its own. What is left at the end of the run, the next one does."""

    def __init__(
        self,
        grant: VolumeGrant,
        mounted: Mounted,
        provisioner: Provisioner,
        report: Report,
        say: Callable[[str], None],
    ) -> None:
        self._name, self._volume_id, self._version = grant.name, grant.volume_id, grant.key_version
        self._mounted, self._provisioner, self._report, self._say = mounted, provisioner, report, say
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"rekey {grant.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End before the volume is unmounted; waits for the commit that is under way."""
        self._stopped.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            state = self._mounted.rekey(self._stopped.is_set)
            if state is not None:
                self._provisioner.end_rekey(self._volume_id, *state)
                self._report.rekeyed(self._name)
        except SecuretfError as error:
            self._say(
                f"volume {self._name} still needs its older key beside version {self._version}: "
                f"{error.problem}; the next run goes on"
            )
