"""Hands signals on to the running program, waits for it and ends what it left behind."""

import os
import select
import shutil
import signal
import threading
from collections import deque
from collections.abc import Mapping
from types import FrameType

from securetf.errors import LaunchError

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)  # a terminal sends these to the whole group
CANCEL_S = 10  # seconds between a signal before the start of the program and the hard end


class Cancelled(Exception):  # noqa: N818  (not an error: the operator asked for it)
    """A signal came before the program was started."""


class Signals:
    """Receives signals in the main thread. Before the start they cancel, then they go to the program.

    After the program has ended they are ignored: what is left is to commit and to clean up.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a handler may interrupt a handler
        self._pending: deque[int] = deque()
        self._program: Program | None = None
        self._ended = False
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.cancelled: int | None = None

    def install(self) -> None:
        """Take over the forwarded signals; call in the main thread."""
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for one in FORWARDED:
            if signal.getsignal(one) is not signal.SIG_IGN:  # as under nohup: the program inherits that
                signal.signal(one, self._receive)
        signal.signal(signal.SIGALRM, self._give_up)

    def wait_for(self, thread: threading.Thread) -> None:
        """Wait in the main thread until `thread` has called `done`, handling signals meanwhile.

        Not `thread.join()`: the kernel may give a signal to another thread, and then nothing would wake this
        one, which alone runs the handlers. The wakeup descriptor does, whichever thread got the signal.
        """
        while True:
            select.select([self._woken], [], [])
            if 0 in os.read(self._woken, 4096):
                break
        thread.join()

    def done(self) -> None:
        """Let `wait_for` return."""
        os.write(self._wake, b"\0")

    def check(self) -> None:
        """Raise Cancelled if a signal came; called between the steps before the start."""
        if self.cancelled is not None:
            raise Cancelled

    def running(self, program: "Program") -> None:
        """From now on signals go to `program`, those that came while it was being started included."""
        with self._lock:
            self._program = program
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._hand_on()

    def ended(self) -> None:
        """From now on signals are ignored."""
        with self._lock:
            self._ended = True
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  (signal's signature)
        with self._lock:
            self._pending.append(number)
            self._hand_on()
            before = self._program is None and not self._ended
            if before and self.cancelled is None and number != signal.SIGWINCH:
                self.cancelled = number
                signal.setitimer(signal.ITIMER_REAL, CANCEL_S)

    def _hand_on(self) -> None:
        while self._program is not None and self._pending and not self._ended:
            self._program.send(self._pending.popleft())

    def _give_up(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        os.write(2, b"securetf: interrupted, and a step does not end: giving up\n")
        os._exit(128 + (self.cancelled or number))  # the kernel takes the namespace down with us


class Program:
    """The running program, in a session of its own, so that Ctrl-C reaches it once: through us."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def send(self, number: int) -> None:
        """Send a signal: to the program, or to its whole process group where a terminal would do that."""
        try:
            if number in _FROM_TERMINAL:
                os.killpg(self._pid, number)
            else:
                os.kill(self._pid, number)
        except ProcessLookupError:
            return  # it has just ended

    def end(self, grace_s: float, ended: threading.Event) -> None:
        """Ask it to end, and kill it if it has not (`ended`) after `grace_s` seconds."""
        self.send(signal.SIGTERM)
        if not ended.wait(grace_s):
            self.send(signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the program; return its exit status, 128 + signal when a signal ended it."""
        while True:
            pid, status = os.waitpid(-1, 0)  # orphans of the program come to us: reap them, too
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def check_program(name: str, environment: Mapping[bytes, bytes], working_directory: str) -> None:
    """See whether the program could be started from its directory: with words that `execve` does not have.

    Raises:
        LaunchError: the program or the working directory does not exist.
    """
    try:
        os.chdir(working_directory)  # this thread's directory is its own (CLONE_FS)
    except OSError as error:
        raise LaunchError(
            f"the working directory {working_directory} cannot be entered: {error.strerror}",
            "correct `working_directory`, or mount a volume that holds it",
        ) from None
    try:
        _find(name, environment[b"PATH"].decode(errors="surrogateescape"))
    finally:
        os.chdir("/")  # else this thread would keep the mount busy


def end_descendants() -> None:
    """Kill what the program left running; all of it is our child by now or becomes it (child subreaper)."""
    while True:
        for child in _children():
            os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    us, found = str(os.getpid()), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if parent == us:
            found.append(int(pid))
    return found


def _find(name: str, path: str) -> None:
    """Raise LaunchError if `name` would not be found and executed from the current directory."""
    if "/" in name:
        if not os.path.isfile(name):
            raise LaunchError(
                f"the program {name} does not exist", "correct `command`, or mount what holds it"
            )
        if not os.access(name, os.X_OK):
            raise LaunchError(
                f"the program {name} is not executable", "start it through its interpreter in `command`"
            )
    elif shutil.which(name, path=path) is None:
        raise LaunchError(
            f"the program {name} is in no directory of PATH ({path})",
            "install it, give its whole path in `command`, or set PATH in `environment`",
        )
