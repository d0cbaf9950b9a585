"""A volume with a local trust file, and a host process that mounts it where nobody else sees it."""

import fcntl
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from securetf.shields.filesystem import Volume, closing, open_volume
from securetf.shields.local_trust import LocalTrust
from support.cloud import Cloud, Job

HERE = Path(__file__).parent
OFFERED = Path("/sys/module/fuse/parameters/enable_uring")


@contextmanager
def io_uring_for_fuse(*, offered: str) -> Iterator[None]:
    """Have the kernel offer io_uring to mounts that are made meanwhile, or not; other tests wait."""
    if not OFFERED.exists():
        pytest.skip("this kernel has no FUSE over io_uring")
    with (Path(tempfile.gettempdir()) / "securetf-tests-enable-uring").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = OFFERED.read_text()
        OFFERED.write_text("Y" if offered == "io_uring" else "N")
        try:
            yield
        finally:
            OFFERED.write_text(before)


@dataclass
class Packed:
    """One volume on disk and its trust file."""

    directory: Path
    trust: LocalTrust
    mountpoint: Path

    def open(self, *, writable: bool) -> Volume:
        return open_volume(self.directory, self.trust.grant(writable=writable), self.trust.advance)

    def fill(self, source: Path) -> None:
        with closing(self.open(writable=True)) as volume:
            volume.pack(str(source))

    def mounted(
        self, *, writable: bool, follow: bool = False, freshness: str = "group", **options: Any
    ) -> "Host":
        return Host(self, writable, follow, options, freshness)

    def mounted_over(self, transport: str, *, writable: bool, **options: Any) -> "Host":
        """As `mounted`, by a kernel that offers io_uring for FUSE ("io_uring") or does not ("dev_fuse")."""
        return Host(self, writable, options=options, transport=transport)


@dataclass
class Host:
    """The process that serves the mount; ended by its id."""

    packed: Packed
    writable: bool
    follow: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    freshness: str = "group"
    transport: str | None = None

    def __enter__(self) -> Self:
        with io_uring_for_fuse(offered=self.transport) if self.transport else nullcontext():
            return self._start()

    def _start(self) -> Self:
        request = {
            "directory": str(self.packed.directory),
            "trust_file": str(self.packed.trust.path),
            "mountpoint": str(self.packed.mountpoint),
            "writable": self.writable,
            "follow": self.follow,
            "freshness": self.freshness,
            "options": self.options,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "mount_host.py"), json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.greeting = self._answer()
        return self

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the host process ended with {self.process.wait(10)}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def run(self, *argv: str, timeout: float = 120) -> dict[str, Any]:
        return self.ask(run=list(argv), timeout=timeout)

    def program(self, script: str, name: str, *argv: str, timeout: float = 120) -> None:
        """Run one function of a script beside this file on the mount; its assertion is ours."""
        command = [sys.executable, str(HERE / script), name, str(self.packed.mountpoint), *argv]
        done = self.run(*command, timeout=timeout)
        assert done["status"] == 0, done["stdout"] + done["stderr"]

    def close(self) -> dict[str, Any]:
        """Unmount and close; the host's last words."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        last = self._answer()
        self.process.wait(30)
        return last

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None and not (self.process.stdin is None or self.process.stdin.closed):
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def make_volume(
    parent: Path, name: str = "v", *, directory: Path | None = None, chunk_size: int = 65536
) -> Packed:
    """Make an empty volume, its trust file and a mount point in `parent`."""
    trust = LocalTrust.create(parent / f"{name}.trust", chunk_size=chunk_size)
    mountpoint = parent / f"{name}.mnt"
    mountpoint.mkdir()
    packed = Packed(directory or parent / name, trust, mountpoint)
    packed.open(writable=True).close()
    return packed


@pytest.fixture(scope="session")
def volume_maker() -> Callable[..., Packed]:
    """`make_volume`, for fixtures that outlive a test."""
    return make_volume


@pytest.fixture
def new_volume(tmp_path: Path) -> Callable[..., Packed]:
    """Make empty volumes, by name, in the test's own directory."""
    return functools.partial(make_volume, tmp_path)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    one = Cloud(tmp_path_factory.mktemp("cloud"))
    yield one
    one.stop()


@pytest.fixture
def job(cloud: Cloud, tmp_path: Path) -> Iterator[Job]:
    one = Job(cloud, tmp_path)
    yield one
    for process in one.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
