"""What the launcher does to its own process before it holds any secret."""

import ctypes
import os
import resource
from pathlib import Path

from securetf.errors import EnvironmentUnfitError

_PR_SET_DUMPABLE = 4  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def harden() -> None:
    """No core dumps of this process and of its children; no ptrace by other users; orphans come to us.

    Raises EnvironmentUnfitError if the kernel refuses.
    """
    limit = _core_limit(Path("/proc/sys/kernel/core_pattern").read_text())
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def take_descriptors() -> None:
    """Let this process open as many descriptors as it may; what was started before keeps its limit.

    A client of the network shield takes two of them.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _core_limit(core_pattern: str) -> int:
    """Return the limit that stops core dumps: 0 for files; 1 for pipes, which ignore 0 (`do_coredump`)."""
    return 1 if core_pattern.startswith(("|", "@")) else 0


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise EnvironmentUnfitError(
            f"prctl({option}, {value}) failed: {os.strerror(ctypes.get_errno())}",
            "run on Linux 4.11 or later",
        )
