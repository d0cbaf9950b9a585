"""Whom the watchdog kills when its standard input ends. All in a PID namespace, where it sees nobody else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from securetf.errors import LaunchError
from securetf.launcher import watchdog

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")]


def in_pid_namespace(script: str) -> str:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
    watch = f"{sys.executable} -I -S -E {watchdog.__file__} </dev/null"
    done = subprocess.run(
        command, env={**os.environ, "WATCH": watch}, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_start_when_the_program_has_no_namespace_of_its_own_refuses() -> None:
    with pytest.raises(LaunchError, match="no mount namespace of its own"):
        watchdog.start()


LAUNCHER = """
import os, subprocess, sys
namespace = os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY)
watch = ["nsenter", f"--mount=/proc/self/fd/{namespace}", *os.environ["WATCH"].split()[:-1]]
subprocess.run(watch, stdin=subprocess.DEVNULL, pass_fds=[namespace], check=True)
"""


def test_watchdog_when_it_is_in_the_programs_namespace_kills_all_of_it_and_nobody_else(
    tmp_path: Path,
) -> None:
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    alive = "test -d /proc/$(cat {0}) && ! grep -q '^State:.Z' /proc/$(cat {0})/status && echo {0}; "
    script = (
        f"cd {tmp_path}; sleep 60 & echo $! > outer\n"
        'unshare --mount sh -c \'setsid sh -c "echo \\$\\$ > child; exec sleep 62" & '
        "while ! test -s child; do :; done; echo $$ > main; exec sleep 63' &\n"
        "while ! test -s main; do :; done\n"
        + "".join(alive.format(name) for name in ("outer", "main", "child"))
        + f"\n{sys.executable} launcher.py $(cat main); echo killed; "
        + "".join(alive.format(name) for name in ("outer", "main", "child"))
        + "true"
    )
    assert in_pid_namespace(script) == "outer\nmain\nchild\nkilled\nouter\n"
