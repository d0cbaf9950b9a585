"""A mounted volume is an ordinary directory to any program, and nobody outside of its namespace sees it."""

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from securetf.shields.filesystem import closing

pytestmark = pytest.mark.root
SCRIPTS = ("posix_programs.py", "node_programs.py", "data_programs.py")
TRANSPORTS = ("dev_fuse", "io_uring")
ACROSS_MOUNTS = {"leave_a_tree_behind", "the_tree_is_still_there"}


def programs() -> list[tuple[str, str]]:
    helpers = {"refused", "renameat2"} | ACROSS_MOUNTS
    found = []
    for script in SCRIPTS:
        tree = ast.parse((Path(__file__).parent / script).read_text())
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        found += [(script, name) for name in names if name not in helpers and not name.startswith("_")]
    return found


WAYS = [f"{writes}-{transport}" for transport in TRANSPORTS for writes in ("writeback", "writethrough")]


@pytest.fixture(scope="module", params=WAYS)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One mounted volume for all programs, each in its own directory."""
    packed = request.getfixturevalue("volume_maker")(tmp_path_factory.mktemp("posix"))
    writes, transport = request.param.split("-")
    with packed.mounted_over(transport, writable=True, writeback=writes == "writeback") as host:
        assert host.greeting == {"ready": True}
        assert host.ask(stats=True)["transport"] == transport
        yield host
        assert host.close() == {"closed": True}
    with closing(packed.open(writable=False)) as volume:
        assert volume.check() == []


@pytest.mark.parametrize(("script", "name"), programs())
def test_program_on_a_mount_finds_what_posix_promises(host: Any, script: str, name: str) -> None:
    host.program(script, name, "own")


def test_tree_written_through_a_mount_is_whole_after_the_next_mount(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    with packed.mounted(writable=True) as host:
        host.program("data_programs.py", "leave_a_tree_behind")
        assert host.close() == {"closed": True}
    with packed.mounted(writable=False) as host:
        host.program("data_programs.py", "the_tree_is_still_there")
        assert host.close() == {"closed": True}
    with closing(packed.open(writable=False)) as volume:
        assert volume.check() == []
        assert [entry.name for entry in volume.ls("/kept")] == ["below", "big", "small"]


def test_mount_is_invisible_outside_of_its_namespace(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    with packed.mounted(writable=True) as host:
        assert host.run("sh", "-c", f"echo seen > {packed.mountpoint}/file")["status"] == 0
        assert os.listdir(packed.mountpoint) == []
        assert str(packed.mountpoint) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_killed_host_leaves_the_program_with_enotconn_and_the_volume_mountable(
    new_volume: Callable[..., Any], transport: str
) -> None:
    packed = new_volume()
    script = (
        "import os, sys, time\n"
        "root = sys.argv[1]\n"
        "with open(root + '/acknowledged', 'wb') as file:\n"
        "    file.write(b'x' * 100000); file.flush(); os.fsync(file.fileno())\n"
        "open(sys.argv[2], 'w').close()\n"
        "while True:\n"
        "    try: os.stat(root + '/missing-' + str(time.time()))\n"
        "    except FileNotFoundError: time.sleep(0.01)\n"
        "    except ConnectionAbortedError: pass  # the call that was under way\n"
        "    except OSError as error:\n"
        "        if error.errno == 125 and sys.argv[4] == 'io_uring': continue  # ECANCELED: the same\n"
        "        open(sys.argv[3], 'w').write(str(error.errno)); break\n"
    )
    ready, verdict = packed.mountpoint.parent / "ready", packed.mountpoint.parent / "verdict"
    with packed.mounted_over(transport, writable=True) as host:
        given = f"{packed.mountpoint} {ready} {verdict} {transport}"
        shell = f"nohup '{sys.executable}' -c \"$0\" {given} >/dev/null 2>&1 &"
        host.run("sh", "-c", shell, script)
        _wait_for(ready)
        os.kill(host.process.pid, signal.SIGKILL)
        host.process.wait(10)
        _wait_for(verdict)
    time.sleep(0.05)
    assert verdict.read_text() == str(107)  # ENOTCONN
    with closing(packed.open(writable=True)) as volume:
        assert volume.check() == []
        assert volume.cat("acknowledged") == b"x" * 100000


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
    time.sleep(0.1)


def test_volume_mounted_inside_of_another_hides_what_is_below_until_it_is_unmounted(
    new_volume: Callable[..., Any], tmp_path: Path
) -> None:
    outer, inner = new_volume("outer"), new_volume("inner")
    for packed, word in ((outer, "outer"), (inner, "inner")):
        source = tmp_path / f"{word}.source"
        (source / "below").mkdir(parents=True)
        (source / "word").write_text(word)
        (source / "below" / "word").write_text(word)
        packed.fill(source)
    at = outer.mountpoint
    script = (
        "import sys; from pathlib import Path\n"
        "from securetf.shields.filesystem import enter_mount_namespace, open_volume\n"
        "from securetf.shields.local_trust import LocalTrust\n"
        "def opened(directory, trust):\n"
        "    return open_volume(Path(directory), LocalTrust(Path(trust)).grant(writable=False), None)\n"
        "at = Path(sys.argv[1]); enter_mount_namespace()\n"
        "outer = opened(*sys.argv[2:4]).mount(str(at))\n"
        "inner = opened(*sys.argv[4:6]).mount(str(at / 'below'))\n"
        "print((at / 'word').read_text(), (at / 'below' / 'word').read_text())\n"
        "inner.unmount(); print((at / 'below' / 'word').read_text())\n"
        "outer.unmount(); print(list(at.iterdir()))\n"
    )
    arguments = [at, outer.directory, outer.trust.path, inner.directory, inner.trust.path]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout == "outer inner\nouter\n[]\n", done.stderr


def test_missing_mount_point_is_refused_with_its_name(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    packed.mountpoint.rmdir()
    with packed.mounted(writable=True) as host:
        assert host.greeting["error"] == "UsageError"
        assert f"mount point {packed.mountpoint} is not a usable directory" in host.greeting["problem"]
