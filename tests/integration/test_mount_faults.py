"""What a program on a mount gets when storage, machine or anchor fail: the right errno, and no damage."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from securetf.errors import NoSpaceError, SecuretfError
from securetf.shields.filesystem import closing

pytestmark = pytest.mark.root
EBADMSG, ENOSPC, EIO = 74, 28, 5
READ = "import sys\ntry: open(sys.argv[1], 'rb').read()\nexcept OSError as error: sys.exit(error.errno)"
FILL = (
    "import os, sys\n"
    "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
    "try:\n"
    "    for _ in range(200): os.write(file, os.urandom(1 << 20))\n"
    "    os.fsync(file)\n"
    "except OSError as error: sys.exit(error.errno)"
)


def test_tampered_chunk_gives_ebadmsg_and_spares_the_other_files(
    new_volume: Callable[..., Any], tmp_path: Path
) -> None:
    packed = new_volume()
    source = tmp_path / "source"
    source.mkdir()
    (source / "victim").write_bytes(b"v" * 1_000_000)
    (source / "zbystander").write_bytes(b"b" * 1_000_000)
    packed.fill(source)
    with packed.mounted(writable=False) as host:
        segment = max((packed.directory / "data").rglob("*"), key=lambda path: path.stat().st_size)
        with segment.open("r+b") as file:
            file.seek(300_000)
            file.write(b"tampered")
        found = [
            host.run(sys.executable, "-c", READ, str(packed.mountpoint / name))["status"]
            for name in ("victim", "zbystander")
        ]
        assert sorted(found) == [0, EBADMSG]
        stats = host.ask(stats=True)
        assert stats["integrity_errors"] >= 1
        assert stats["last"]
        assert host.close() == {"closed": True}


def test_full_store_gives_enospc_and_the_committed_state_stays_valid(
    new_volume: Callable[..., Any], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(store)], check=True)
    try:
        packed = new_volume(directory=store / "v")
        source = tmp_path / "source"
        source.mkdir()
        (source / "before").write_bytes(b"k" * 1_000_000)
        packed.fill(source)
        with packed.mounted(writable=True) as host:
            assert host.run(sys.executable, "-c", FILL, str(packed.mountpoint / "big"))["status"] == ENOSPC
            assert host.run(sys.executable, "-c", READ, str(packed.mountpoint / "before"))["status"] == 0
            host.run("rm", str(packed.mountpoint / "big"))
            host.close()
        with closing(packed.open(writable=False)) as volume:
            assert volume.cat("before") == b"k" * 1_000_000
            assert volume.check() == []
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)


def test_packing_into_a_full_store_says_so(new_volume: Callable[..., Any], tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(store)], check=True)
    try:
        packed = new_volume(directory=store / "v")
        source = tmp_path / "source"
        source.mkdir()
        (source / "big").write_bytes(bytes(range(256)) * 4096 * 40)
        with pytest.raises(NoSpaceError, match="no space left"):
            packed.fill(source)
        with closing(packed.open(writable=False)) as volume:
            assert volume.check() == []
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)


def test_anchor_that_fences_ends_fsync_with_eio_and_reads_go_on(
    new_volume: Callable[..., Any], tmp_path: Path
) -> None:
    packed = new_volume()
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"readable")
    packed.fill(source)
    with packed.mounted(writable=True) as host:
        packed.trust.grant(writable=True)  # a newer writer was let in
        write = (
            "import os, sys\n"
            "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
            "try: os.write(file, b'lost'); os.fsync(file)\n"
            "except OSError as error: sys.exit(error.errno)"
        )
        assert host.run(sys.executable, "-c", write, str(packed.mountpoint / "new"))["status"] == EIO
        assert host.run("cat", str(packed.mountpoint / "file"))["stdout"] == "readable"
        last = host.close()
        assert last["error"] == "FencedError"
    with closing(packed.open(writable=True)) as volume:
        assert (
            volume.cat("file") == b"readable"
        )  # "new" was never acknowledged: kept or dropped, both are legal
        assert volume.check() == []


WAITING = """
import fcntl, os, pathlib, sys, threading
anchor = os.open(sys.argv[2], os.O_RDONLY)
fcntl.flock(anchor, fcntl.LOCK_EX)  # from now on nothing is anchored
os.chdir(sys.argv[1])

def append(name):
    file = os.open(name, os.O_WRONLY | os.O_CREAT)
    os.write(file, b"waits")
    os.fsync(file)

threads = [threading.Thread(target=append, args=(f"new{number}",)) for number in range(12)]
for one in threads:
    one.start()
FSYNC = "74 "  # of x86-64
while not all(pathlib.Path(f"/proc/self/task/{one.native_id}/syscall").read_text().startswith(FSYNC) for one in threads):
    pass
print(os.path.exists("never made"), open("file").read(), all(one.is_alive() for one in threads))
fcntl.flock(anchor, fcntl.LOCK_UN)
for one in threads:
    one.join()
"""  # noqa: E501


def test_mount_when_more_fsyncs_wait_for_the_anchor_than_it_has_threads_reads_on(
    new_volume: Callable[..., Any], tmp_path: Path
) -> None:
    packed = new_volume()
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"readable")
    packed.fill(source)
    with packed.mounted(writable=True) as host:
        anchor = packed.trust.path.parent  # locked by who advances
        done = host.run(sys.executable, "-c", WAITING, str(packed.mountpoint), str(anchor))
        assert (done["status"], done["stdout"]) == (0, "False readable True\n"), done
        assert host.close() == {"closed": True}
    with closing(packed.open(writable=False)) as volume:
        assert volume.cat("new11") == b"waits"


def test_second_writer_of_the_same_directory_is_refused_as_busy(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    with packed.mounted(writable=True), pytest.raises(SecuretfError) as caught:
        packed.open(writable=True)
    assert type(caught.value).__name__ == "VolumeBusyError"


def test_machine_without_the_right_to_mount_gets_a_clear_error(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    script = (
        "import sys; from pathlib import Path\n"
        "from securetf.errors import SecuretfError\n"
        "from securetf.shields.filesystem import open_volume\n"
        "from securetf.shields.local_trust import LocalTrust\n"
        "volume = open_volume(Path(sys.argv[1]), LocalTrust(Path(sys.argv[2])).grant(writable=False), None)\n"
        "try: volume.mount(sys.argv[3])\n"
        "except SecuretfError as error: print(type(error).__name__, error.code, error)\n"
    )
    arguments = [str(packed.directory), str(packed.trust.path), str(packed.mountpoint)]
    done = subprocess.run(
        [
            "setpriv",
            "--bounding-set=-sys_admin",
            "--inh-caps=-sys_admin",
            sys.executable,
            "-c",
            script,
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("FuseUnavailableError STF-1003"), done.stdout + done.stderr
    assert "CAP_SYS_ADMIN" in done.stdout


def test_machine_without_fuse_gets_a_clear_error(new_volume: Callable[..., Any]) -> None:
    packed = new_volume()
    script = (
        "import sys; from pathlib import Path\n"
        "from securetf.errors import SecuretfError\n"
        "from securetf.shields.filesystem import enter_mount_namespace, mount_tmpfs, open_volume\n"
        "from securetf.shields.local_trust import LocalTrust\n"
        "volume = open_volume(Path(sys.argv[1]), LocalTrust(Path(sys.argv[2])).grant(writable=False), None)\n"
        "enter_mount_namespace(); mount_tmpfs('/dev', size_bytes=1 << 20, mode=0o755)\n"
        "try: volume.mount(sys.argv[3])\n"
        "except SecuretfError as error: print(type(error).__name__, error.problem, '|', error.fix)\n"
    )
    arguments = [str(packed.directory), str(packed.trust.path), str(packed.mountpoint)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("FuseUnavailableError /dev/fuse cannot be opened"), (
        done.stdout + done.stderr
    )
    assert "modprobe fuse" in done.stdout
