"""Before the launcher holds a secret, nothing of its memory can reach a core dump."""

import subprocess
import sys

from securetf.launcher.hardening import _core_limit

SCRIPT = """
import ctypes, resource
from securetf.launcher.hardening import harden
harden()
reaper = ctypes.c_int()
ctypes.CDLL(None).prctl(37, ctypes.byref(reaper), 0, 0, 0)  # PR_GET_CHILD_SUBREAPER
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE), reaper.value)
"""


def test_harden_when_called_makes_the_process_undumpable_for_good() -> None:
    dumpable, soft, hard, reaper = map(int, subprocess.check_output([sys.executable, "-c", SCRIPT]).split())
    assert (dumpable, reaper) == (0, 1)
    assert soft == hard
    assert hard in (0, 1)


DESCRIPTORS = """
import resource, subprocess, sys
from securetf.launcher.hardening import take_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
show = "import resource, sys; sys.stdin.read(); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
command = [sys.executable, "-c", show]
child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
take_descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE), child.communicate()[0])
"""


def test_take_descriptors_when_called_raises_the_own_limit_and_not_the_programs() -> None:
    soft, hard, child = map(int, subprocess.check_output([sys.executable, "-c", DESCRIPTORS]).split())
    assert soft == hard
    assert child == 300


def test_core_limit_when_dumps_go_to_a_pipe_is_the_value_that_the_kernel_heeds() -> None:
    assert _core_limit("core.%p") == 0
    assert _core_limit("|/usr/lib/systemd/systemd-coredump %P") == 1
    assert _core_limit("@/run/coredump.socket") == 1
