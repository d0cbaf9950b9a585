"""The file systems that `volume.py` compares: how each is mounted, and how it takes a tree."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from securetf.shields.filesystem import closing, open_volume
from securetf.shields.local_trust import LocalTrust

OVER, CHUNKS = " over io_uring", ", 16 KiB chunks"
READ_AHEAD_KIB = 4096  # of P; a volume's mount has 2048
OFFERED = Path("/sys/module/fuse/parameters/enable_uring")


@dataclass
class Contender:
    """A file system that is mounted anew for each round."""

    name: str
    area: Path
    results: dict[str, list[float]] = field(default_factory=dict)

    def note(self, row: str, value: float) -> None:
        self.results.setdefault(row, []).append(value)

    def median(self, row: str) -> float:
        return statistics.median(self.results[row])


@dataclass
class Plain(Contender):
    """The directory itself."""

    def start(self) -> Path:
        self.area.mkdir(parents=True, exist_ok=True)
        return self.area

    def again(self) -> None:
        """Nothing is mounted."""

    def stop(self) -> None:
        """Nothing is mounted."""


@dataclass
class Securetf(Contender):
    chunk_size: int = 65536
    transport: str = "dev_fuse"

    def start(self) -> Path:
        with offering(self.transport):
            return self.mount()

    def mount(self) -> Path:
        shutil.rmtree(self.area, ignore_errors=True)
        (self.area / "mnt").mkdir(parents=True)
        LocalTrust.create(self.area / "trust", chunk_size=self.chunk_size)
        return self.serve()

    def again(self) -> None:
        """Mount what is there anew."""
        self.stop()
        with offering(self.transport):
            self.serve()

    def serve(self) -> Path:
        command = [sys.executable, "-m", "securetf", "volume", "mount", "--writable"]
        command += [
            "--trust-file",
            str(self.area / "trust"),
            str(self.area / "store"),
            str(self.area / "mnt"),
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise SystemExit("securetf volume mount failed")
        return self.area / "mnt"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            raise SystemExit("securetf volume mount ended with an error")

    def take(self, source: Path) -> float:
        """Pack a tree into a new volume; seconds."""
        shutil.rmtree(self.area, ignore_errors=True)
        self.area.mkdir()
        trust = LocalTrust.create(self.area / "trust")
        begin = time.perf_counter()
        with closing(open_volume(self.area / "store", trust.grant(writable=True), trust.advance)) as volume:
            volume.pack(str(source))
        return time.perf_counter() - begin


COPYING = {  # what of libfuse's example is replaced so that it does not splice
    "if(conn->capable & FUSE_CAP_EXPORT_SUPPORT)": "conn->want &= ~(FUSE_CAP_SPLICE_READ "
    "| FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);\n\tif (conn->capable & FUSE_CAP_EXPORT_SUPPORT)",
    "FUSE_BUF_SPLICE_MOVE": "FUSE_BUF_NO_SPLICE",
}
SECONDS = 30  # until a mount must be there


def read_ahead(mounted: Path, kib: int) -> None:
    """Set how far the kernel reads ahead on a mount."""
    number = mounted.stat().st_dev
    Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb").write_text(str(kib))


@dataclass
class Foreground(Contender, ABC):
    """A file system that is served by one process in the foreground, from `area`/store to `area`/mnt."""

    @abstractmethod
    def command(self, store: str, mounted: str) -> list[str]:
        """Return what serves `store` at `mounted`."""

    def create(self, store: str) -> None:
        """Make an empty file system in an empty directory."""

    def start(self) -> Path:
        shutil.rmtree(self.area, ignore_errors=True)
        for directory in (self.area / "store", self.area / "mnt"):
            directory.mkdir(parents=True)
        self.create(str(self.area / "store"))
        return self.serve()

    def again(self) -> None:
        """Mount what is there anew."""
        self.stop()
        self.serve()

    def serve(self) -> Path:
        mounted = self.area / "mnt"
        with (self.area / "log").open("w") as log:
            command = self.command(str(self.area / "store"), str(mounted))
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while not os.path.ismount(mounted):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise SystemExit(f"{self.name} did not mount: {(self.area / 'log').read_text()}")
            time.sleep(0.02)
        return mounted

    def stop(self) -> None:
        subprocess.run(["umount", str(self.area / "mnt")], check=True)
        self.process.wait(SECONDS)


@dataclass
class Passthrough(Foreground):
    """P: FUSE without cryptography over plain files: libfuse's low-level example, as fast as it gets here.

    Debian packages its source with libfuse3-dev. It has the kernel's writeback cache, caches kept across
    opens, a descriptor for each thread, the read-ahead of the design, and copies instead of splicing, which
    is faster by a tenth. Debian's bindfs has none of that, and wrote half as fast when it was tried.
    """

    source: Path = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
    program: str = ""

    def build(self) -> "Passthrough":
        """Compile it beside `area`."""
        if not self.source.exists():
            raise SystemExit(f"{self.source} is missing: apt-get install libfuse3-dev gcc pkg-config")
        flags = subprocess.run(
            ["pkg-config", "fuse3", "--cflags", "--libs"], capture_output=True, text=True, check=True
        ).stdout.split()
        self.program = str(self.area.parent / "passthrough_ll")
        text = self.source.read_text()
        for found, instead in COPYING.items():
            if found not in text:
                raise SystemExit(f"{self.source} is another version: it does not have {found}")
            text = text.replace(found, instead)
        changed = self.area.parent / "passthrough_ll.c"
        changed.write_text(text)
        paths = ["-I", str(self.source.parent), "-o", self.program, str(changed)]
        subprocess.run(["gcc", "-O2", "-w", *paths, *flags], check=True)
        return self

    def command(self, store: str, mounted: str) -> list[str]:
        options = f"source={store},cache=always,timeout=3600,writeback,clone_fd"
        return [self.program, "-f", "-o", options, mounted]

    def serve(self) -> Path:
        mounted = super().serve()
        read_ahead(mounted, READ_AHEAD_KIB)
        return mounted


@dataclass
class Securefs(Foreground):
    """As Debian ships it, in its default format."""

    def create(self, store: str) -> None:
        command = ["securefs", "create", "--pass", "benchmark", "-r", "1", store]
        subprocess.run(command, check=True, capture_output=True)

    def command(self, store: str, mounted: str) -> list[str]:
        return ["securefs", "mount", "--pass", "benchmark", store, mounted]


@dataclass
class Gocryptfs(Contender):
    read_ahead_kib: int | None = None

    def start(self) -> Path:
        shutil.rmtree(self.area, ignore_errors=True)
        (self.area / "mnt").mkdir(parents=True)
        (self.area / "store").mkdir()
        (self.area / "password").write_text("benchmark")
        secret = ["-passfile", str(self.area / "password")]
        store = str(self.area / "store")
        subprocess.run(["gocryptfs", "-q", "-init", "-scryptn", "10", *secret, store], check=True)
        return self.serve()

    def again(self) -> None:
        """Mount what is there anew."""
        self.stop()
        self.serve()

    def serve(self) -> Path:
        store, mounted = self.area / "store", self.area / "mnt"
        secret = ["-passfile", str(self.area / "password")]
        subprocess.run(["gocryptfs", "-q", "-nosyslog", *secret, str(store), str(mounted)], check=True)
        if self.read_ahead_kib is not None:
            read_ahead(mounted, self.read_ahead_kib)
        return mounted

    def stop(self) -> None:
        subprocess.run(["umount", str(self.area / "mnt")], check=True)

    def take(self, source: Path) -> float:
        """Copy a tree into a new mount; seconds."""
        mounted = self.start()
        begin = time.perf_counter()
        shutil.copytree(source, mounted / "tree")
        elapsed = time.perf_counter() - begin
        self.stop()
        return elapsed


@contextmanager
def offering(transport: str) -> Iterator[None]:
    """Have the kernel offer io_uring to FUSE while something is mounted, or not; then as before."""
    if not OFFERED.exists():
        yield
        return
    before = OFFERED.read_text()
    OFFERED.write_text("Y" if transport == "io_uring" else "N")
    try:
        yield
    finally:
        OFFERED.write_text(before)


def over_io_uring(area: Path) -> list["Securetf"]:
    """The contenders that need a kernel with FUSE over io_uring."""
    if not OFFERED.exists():
        return []
    return [
        Securetf(OVER, area / "u", transport="io_uring"),
        Securetf(OVER + CHUNKS, area / "uc", chunk_size=16384, transport="io_uring"),
    ]
