"""Times of the launcher's steps, its resident memory and processor time, for `--report`."""

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from securetf.errors import EnvironmentUnfitError, SecuretfError

VERSION = 1  # of the JSON form; docs/how-to/run-a-program.md


class Report:
    """Filled while the launcher works; `write` gives the JSON. Holds no secrets."""

    def __init__(self) -> None:
        self.facts: dict[str, object] = {"version": VERSION}
        self._steps: list[dict[str, object]] = []
        self._memory: dict[str, int] = {}
        self._processor: dict[str, float] = {}
        self._volumes: dict[str, dict[str, object]] = {}
        self._stale: dict[str, int] = {}
        self._in_memory: dict[str, str] = {}
        self._transports: dict[str, str] = {}
        self._inner = 0.0  # seconds that steps inside the current one took

    def add_start_of_process(self) -> None:
        """Add the step `load`: from the start of this process until now (resolution 10 ms, `proc(5)`)."""
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        self._steps.append({"name": "load", "seconds": round(max(age, 0.0), 4)})

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step, without the steps inside it; it is kept when it fails, too."""
        begin, outer, self._inner = time.monotonic(), self._inner, 0.0
        try:
            yield
        finally:
            whole = time.monotonic() - begin
            self._steps.append({"name": name, "seconds": round(whole - self._inner, 4)})
            self._inner = outer + whole

    def started(self) -> None:
        """Note that the program runs now: what was before is the launcher's overhead."""
        self.facts["until_program_seconds"] = round(sum(_seconds(step) for step in self._steps), 4)
        self._memory["at_start_bytes"] = _status_bytes("VmRSS")
        self._processor["until_program"] = _processor_s(resource.RUSAGE_SELF)

    def ended(self, status: int) -> None:
        """Note the program's exit status (128 + signal when a signal ended it)."""
        self.facts["exit_status"] = status
        self._memory["at_end_bytes"] = _status_bytes("VmRSS")
        self._memory["peak_bytes"] = _status_bytes("VmHWM")
        beside = _processor_s(resource.RUSAGE_SELF) - self._processor["until_program"]
        self._processor["beside_program"] = round(beside, 4)
        self._processor["program"] = _processor_s(resource.RUSAGE_CHILDREN)

    def mounted(self, volume: str, *, writable: bool, freshness: str) -> None:
        """Note how a volume of the session was mounted."""
        self._volumes[volume] = {"writable": writable, "freshness": freshness}

    def rekeyed(self, volume: str) -> None:
        """Note that nothing in a volume needs its older key any more."""
        self._volumes[volume]["rekeyed"] = True

    def stale(self, volume: str, count: int) -> None:
        """Note how many reads of states that are followed no more failed."""
        self._stale[volume] = count

    def in_memory(self, volume: str, why: str) -> None:
        """Note that a volume is not mounted but a copy in memory, and why."""
        self._in_memory[volume] = why

    def served(self, volume: str, transport: str) -> None:
        """Note how the kernel reaches a mount: "io_uring" or "dev_fuse"."""
        self._transports[volume] = transport

    def failed(self, error: SecuretfError) -> None:
        """Note why the run failed."""
        self.facts["error"] = {"code": error.code, "problem": error.problem}

    def write(self, path: Path) -> None:
        """Write the JSON form. Raises EnvironmentUnfitError if the file cannot be written."""
        whole = {**self.facts, "steps": self._steps, "resident_memory": self._memory}
        whole["processor_seconds"] = self._processor
        whole |= {"volumes": self._volumes} if self._volumes else {}
        whole |= {"stale_errors": self._stale} if self._stale else {}
        whole |= {"in_memory": self._in_memory} if self._in_memory else {}
        whole |= {"transport": self._transports} if self._transports else {}
        try:
            path.write_text(json.dumps(whole, indent=1) + "\n")
        except OSError as error:
            raise EnvironmentUnfitError(
                f"the report {path} cannot be written: {error.strerror}",
                "name a file in a directory that exists",
            ) from None


def _seconds(step: dict[str, object]) -> float:
    seconds = step["seconds"]
    return seconds if isinstance(seconds, float) else 0.0


def _processor_s(whose: int) -> float:
    used = resource.getrusage(whose)
    return round(used.ru_utime + used.ru_stime, 4)


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    return 0
