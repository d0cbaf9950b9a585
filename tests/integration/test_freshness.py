"""When a write through a mount counts: what close, rename and fsync wait for, by the volume's freshness."""

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetf.errors import VolumeRollbackError
from securetf.shields.filesystem import closing

pytestmark = pytest.mark.root
PROGRAM = str(Path(__file__).with_name("freshness_program.py"))
WINDOW_S = 5.0  # docs/how-to/use-volumes.md, "When a write counts"
FOLLOWS_S = 1.0  # the same
CONTENT = b"promised" * 2000


def done(host: Any, what: str) -> bool:
    """Do it on the mount; return whether the anchor had moved when the call returned."""
    packed = host.packed
    arguments = [sys.executable, PROGRAM, what, str(packed.mountpoint), str(packed.trust.path)]
    ran = host.run(*arguments)
    assert ran["status"] == 0, ran["stderr"]
    before, after = json.loads(ran["stdout"])
    return bool(after > before)


def end(host: Any) -> None:
    """Kill the process that serves the mount: no last commit."""
    host.process.send_signal(signal.SIGKILL)
    host.process.wait(10)


@pytest.mark.parametrize("writeback", [False, True])
@pytest.mark.parametrize("what", ["close", "rename", "fsync"])
def test_strict_returns_when_the_state_is_anchored_and_a_kill_right_after_loses_nothing(
    new_volume: Callable[..., Any], what: str, writeback: bool
) -> None:
    packed = new_volume()
    with packed.mounted(writable=True, freshness="strict", writeback=writeback) as host:
        assert done(host, what)
        end(host)
    with closing(packed.open(writable=False)) as volume:  # a reader: exactly the anchored root
        assert volume.cat(what) == CONTENT
        assert volume.check() == []


def test_group_does_not_wait_at_close_and_at_a_rename_to_a_new_name(new_volume: Callable[..., Any]) -> None:
    """The difference that `strict` makes. A commit in the background may fall between, so several tries."""
    packed = new_volume()
    with packed.mounted(writable=True) as host:
        for what in ("close", "rename"):
            assert not all(done(host, what) for _ in range(10))
        assert done(host, "fsync")


def test_strict_close_that_cannot_be_anchored_fails_with_eio(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    program = (
        "import os, sys\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "os.write(file, b'never acknowledged')\n"
        "try: os.close(file)\n"
        "except OSError as error: sys.exit(error.errno)\n"
    )
    with packed.mounted(writable=True, freshness="strict") as host:
        packed.trust.grant(writable=True)  # a newer writer was let in
        ran = host.run(sys.executable, "-c", program, str(packed.mountpoint / "file"))
        assert ran["status"] == errno.EIO
        assert host.close()["error"] == "FencedError"


def test_strict_closing_what_was_opened_for_reading_does_not_wait(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    with packed.mounted(writable=True, freshness="strict") as host:
        assert done(host, "close")
        packed.trust.grant(writable=True)  # from now on all that waits fails
        assert host.run("cat", str(packed.mountpoint / "close"))["status"] == 0
        host.close()


def test_async_fsync_returns_before_the_anchor_moves_which_follows_within_a_second(
    new_volume: Callable[..., Any],
) -> None:
    packed = new_volume()
    with packed.mounted(writable=True, freshness="async") as host:
        assert not all(done(host, "fsync") for _ in range(10))
        begun, before = time.monotonic(), host.ask(status=True)["seq"]
        while host.ask(status=True)["seq"] == before:
            assert time.monotonic() - begun < WINDOW_S
        print(f"the anchor followed after {time.monotonic() - begun:.2f} s, {FOLLOWS_S} s are documented")
        with closing(packed.open(writable=False)) as volume:
            assert volume.cat("fsync") == CONTENT
        assert host.close() == {"closed": True}


def test_async_kill_right_after_fsync_keeps_the_file_for_the_next_writer_and_rollback_is_refused(
    new_volume: Callable[..., Any], tmp_path: Path
) -> None:
    packed = new_volume()
    older = tmp_path / "older"
    shutil.copytree(packed.directory, older)
    with packed.mounted(writable=True, freshness="async") as host:
        done(host, "fsync")
        end(host)
    with closing(packed.open(writable=True)) as volume:  # what is durable beyond the anchor is kept
        assert volume.cat("fsync") == CONTENT
        assert volume.check() == []
    packed.directory.rename(tmp_path / "newer")
    older.rename(packed.directory)
    with pytest.raises(VolumeRollbackError, match="the store reaches only"):
        packed.open(writable=False)


@pytest.mark.parametrize("freshness", ["strict", "async"])
def test_a_clean_end_anchors_everything(new_volume: Callable[..., Any], freshness: str) -> None:
    packed = new_volume()
    with packed.mounted(writable=True, freshness=freshness) as host:
        host.run("sh", "-c", f"echo unsynced > {packed.mountpoint}/file")
        assert host.close() == {"closed": True}
    with closing(packed.open(writable=False)) as volume:
        assert volume.cat("file") == b"unsynced\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trust-file", "TRUST"], "--freshness says when writes are anchored"),
        (["--writable", "--cas", "cas.json"], "--freshness is for --trust-file"),
    ],
)
def test_mount_command_takes_a_freshness_only_for_writing_with_a_trust_file(
    new_volume: Callable[..., Any], options: list[str], words: str
) -> None:
    packed = new_volume()
    given = [str(packed.trust.path) if one == "TRUST" else one for one in options]
    where = [str(packed.directory), str(packed.mountpoint)]
    done = subprocess.run(
        [sys.executable, "-m", "securetf", "volume", "mount", *where, "--freshness", "async", *given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr


def test_status_when_asked_names_the_freshness(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    command = [sys.executable, "-m", "securetf", "volume", "status", str(packed.directory), "--json"]
    done = subprocess.run(
        [*command, "--trust-file", str(packed.trust.path)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["freshness"] == "group"
