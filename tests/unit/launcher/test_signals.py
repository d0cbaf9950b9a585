"""Signals reach their handler whichever thread the kernel gives them to, and each goes to one addressee."""

import subprocess
import sys

SCRIPT = """
import signal, threading, time
from securetf.launcher.program import Signals
signals = Signals()
signals.install()
def work():
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)  # to this thread, not to the main one
    end = time.monotonic() + 10
    while signals.cancelled is None and time.monotonic() < end:
        time.sleep(0.01)
    signals.done()
thread = threading.Thread(target=work, daemon=True)
thread.start()
signals.wait_for(thread)
print(signals.cancelled)
"""

HANDED_ON = """
import os, signal
from securetf.launcher.program import Signals
class Recorder:
    def __init__(self): self.got = []
    def send(self, number): self.got.append(number)
signals, program = Signals(), Recorder()
signals.install()
os.kill(os.getpid(), signal.SIGUSR1)  # while the program is being started
signals.running(program)
os.kill(os.getpid(), signal.SIGHUP)
os.kill(os.getpid(), signal.SIGWINCH)
signals.ended()
os.kill(os.getpid(), signal.SIGTERM)
print(*program.got, signal.getitimer(signal.ITIMER_REAL)[0])
"""


def test_wait_for_when_another_thread_gets_the_signal_still_handles_it() -> None:
    assert subprocess.check_output([sys.executable, "-c", SCRIPT], timeout=30) == b"15\n"


def test_signals_when_the_program_starts_runs_and_ends_go_to_it_once_while_it_runs() -> None:
    assert subprocess.check_output([sys.executable, "-c", HANDED_ON], timeout=30) == b"10 1 28 0.0\n"
