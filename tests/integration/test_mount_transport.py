"""A mount over io_uring whose kernel refuses: before it begins, another transport; after that, no answers.

The kernel's errors are made by a seccomp filter that the serving process gives to all its threads.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from securetf.shields.filesystem import closing

from .conftest import io_uring_for_fuse

pytestmark = pytest.mark.root
IO_URING_SETUP, IO_URING_ENTER = 425, 426  # of x86-64
EBADFD, ENOTCONN, ECONNABORTED, ECANCELED = 77, 107, 103, 125
PATIENCE_S = 120  # a request that is never answered ends the test, and nothing else waits for it
REFUSE = f"""
import ctypes, struct
def refuse(call):
    # seccomp(2): this system call returns an error, in all threads; seccomp_data.nr is at 0.
    load, equal, give = struct.pack("HBBI", 0x20, 0, 0, 0), struct.pack("HBBI", 0x15, 0, 1, call), 0x06
    error, allow = (struct.pack("HBBI", give, 0, 0, word) for word in (0x50000 | {EBADFD}, 0x7FFF0000))
    program = ctypes.create_string_buffer(load + equal + error + allow, 32)
    header = struct.pack("HxxxxxxQ", 4, ctypes.addressof(program))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    # seccomp of x86-64: SET_MODE_FILTER, TSYNC
    assert libc.syscall(317, 1, 1, header) == 0, ctypes.get_errno()
"""
SERVE = """
import os, subprocess, sys
from pathlib import Path
from securetf.errors import EnvironmentUnfitError
from securetf.shields.filesystem import enter_mount_namespace, open_volume
from securetf.shields.local_trust import LocalTrust
directory, trust, at, when, call = sys.argv[1:]
enter_mount_namespace()
trust = LocalTrust(Path(trust))
volume = open_volume(Path(directory), trust.grant(writable=True), trust.advance)
if when == "before": refuse(int(call))
mount = volume.mount(at)
print(mount.stats().transport)
# Programs other than this one ask: a thread of ours that waited for itself could not be ended.
MAKE = "import os, sys\\ntry: os.mkdir(sys.argv[1])\\nexcept OSError as error: sys.exit(error.errno)"
def make(name): return subprocess.run([sys.executable, "-c", MAKE, f"{at}/{name}"]).returncode
print(make("first"))
if when == "after":
    refuse(int(call))
    print(make("second"), make("third"), f" {at} " in Path("/proc/self/mountinfo").read_text())
try: mount.unmount()
except EnvironmentUnfitError as error: print(error.problem)
volume.close()
"""


def serve(packed: Any, when: str, call: int) -> list[str]:
    script = REFUSE + SERVE
    arguments = [packed.directory, packed.trust.path, packed.mountpoint, when, call]
    with io_uring_for_fuse(offered="io_uring"):
        done = subprocess.run(
            [sys.executable, "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("call", [IO_URING_SETUP, IO_URING_ENTER], ids=["rings", "entries-after-init"])
def test_mount_when_the_kernel_refuses_io_uring_to_the_process_then_served_by_dev_fuse(
    new_volume: Callable[..., Any], call: int
) -> None:
    assert serve(new_volume(), "before", call) == ["dev_fuse", "0"]


def test_mount_when_a_ring_fails_then_requests_fail_and_the_reason_is_told_at_unmount(
    new_volume: Callable[..., Any],
) -> None:
    packed = new_volume()
    transport, first, later, told = serve(packed, "after", IO_URING_ENTER)
    assert (transport, first) == ("io_uring", "0")
    second, third, still_mounted = later.split()
    assert int(second) in {ENOTCONN, ECONNABORTED, ECANCELED}  # it was under way
    assert int(third) == ENOTCONN
    assert still_mounted == "True"  # else the program would go on in the directory beneath
    assert f"the mount at {packed.mountpoint} could not be served to the end: " in told
    assert f"(os error {EBADFD})" in told
    with closing(packed.open(writable=True)) as volume:
        assert volume.check() == []
        assert "first" in [entry.name for entry in volume.ls("/")]
