"""Ends what the program started when the launcher was killed and can no longer do it.

The program itself dies with the launcher (PR_SET_PDEATHSIG); its children do not, that signal is not
inherited. `start` runs this file as a process of its own in the program's mount namespace. It waits until its
standard input ends, which only happens when the launcher closes it or dies, and then kills every process of
the namespace. It never holds a key: it is a fresh interpreter with an empty environment.
"""

import os
import signal
import subprocess
import sys
import time

_PAUSE_S = 0.02
_GIVE_UP_S = 60  # a process in an uninterruptible call dies when that call returns


def start() -> "subprocess.Popen[bytes]":
    """Start it from the thread that is in the program's mount namespace; it lives as long as this process.

    Raises:
        LaunchError: this thread is in the namespace of the whole process: others than the program would die.
    """
    from securetf.errors import LaunchError  # noqa: PLC0415  (not for the watchdog itself, which has no path)

    if os.path.samestat(os.stat("/proc/thread-self/ns/mnt"), os.stat("/proc/self/ns/mnt")):
        raise LaunchError("the program has no mount namespace of its own", "report it: a defect in securetf")
    return subprocess.Popen(  # noqa: S603  (this very file)
        [sys.executable, "-I", "-S", "-E", __file__],
        stdin=subprocess.PIPE,  # nobody writes; our end is not inherited by the program
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,  # signals of the terminal are for the launcher
    )


def main() -> None:
    """Wait for the end of standard input, then kill until nobody is left."""
    ours = os.stat("/proc/self/ns/mnt")
    while os.read(0, 1):
        pass
    end = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < end and _kill_others(ours):
        time.sleep(_PAUSE_S)


def _kill_others(ours: os.stat_result) -> bool:
    """Kill all other processes of the namespace; return whether there was one."""
    found = False
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            same = os.path.samestat(os.stat(f"/proc/{pid}/ns/mnt"), ours)
            if same and pid != os.getpid():
                found = True
                os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has just ended, or is not ours to see
    return found


if __name__ == "__main__":
    main()
