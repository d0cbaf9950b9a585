"""The file systems that `volume.py` compares: how each is mounted, and how it takes a tree."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from securetf.shields.filesystem import closing, open_volume
from securetf.shields.local_trust import LocalTrust

OVER, CHUNKS = " over io_uring", ", 16 KiB chunks"
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


@dataclass
class Gocryptfs(Contender):
    read_ahead_kib: int | None = None

    def start(self) -> Path:
        shutil.rmtree(self.area, ignore_errors=True)
        (self.area / "mnt").mkdir(parents=True)
        (self.area / "store").mkdir()
        (self.area / "password").write_text("benchmark")
        secret = ["-passfile", str(self.area / "password")]
        store, mounted = str(self.area / "store"), self.area / "mnt"
        subprocess.run(["gocryptfs", "-q", "-init", "-scryptn", "10", *secret, store], check=True)
        subprocess.run(["gocryptfs", "-q", *secret, store, str(mounted)], check=True)
        if self.read_ahead_kib is not None:
            number = (self.area / "mnt").stat().st_dev
            knob = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb")
            knob.write_text(str(self.read_ahead_kib))
        return self.area / "mnt"

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
