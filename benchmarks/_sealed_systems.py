"""File systems that keep ciphertext in a directory, as `attacks.py` uses them: made, mounted, unmounted."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from securetf.shields.local_trust import LocalTrust

SECONDS = 30  # until a mount must be there, or gone


class NotMountedError(Exception):
    """The file system refused to mount; the text is what it said."""


@dataclass(frozen=True, slots=True)
class System(ABC):
    """One contender. header, block: where block i of a content object lies, in bytes.

    mirrored: each file and directory has one of its own in the store, so the host can rename it.
    """

    name: str
    area: Path
    header: int
    block: int
    mirrored: bool

    @property
    def store(self) -> Path:
        """Where the newest ciphertext lies."""
        return self.area / "store"

    @abstractmethod
    def create(self) -> None:
        """Make an empty file system."""

    @abstractmethod
    def command(self, store: Path, mounted: Path, *, writable: bool) -> list[str]:
        """Return what serves `store` in the foreground."""

    @contextmanager
    def mounted(self, store: Path, *, writable: bool) -> Iterator[Path]:
        """Mount `store`; yield the mount point.

        Raises:
            NotMountedError: refused.
        """
        where = self.area / "mnt"
        where.mkdir(exist_ok=True)
        log = self.area / "log"
        with log.open("w+") as output:
            process = subprocess.Popen(
                self.command(store, where, writable=writable), stdout=output, stderr=output, cwd=self.area
            )
            try:
                self._wait(process, where, log)
                yield where
            finally:
                if os.path.ismount(where):
                    self.end(process, where)
                process.wait(SECONDS)

    def end(self, process: subprocess.Popen[bytes], mounted: Path) -> None:  # noqa: ARG002
        """Unmount; the process ends by itself then."""
        subprocess.run(["umount", str(mounted)], check=True)

    @staticmethod
    def _wait(process: subprocess.Popen[bytes], where: Path, log: Path) -> None:
        deadline = time.monotonic() + SECONDS
        while not os.path.ismount(where):
            if process.poll() is not None:
                raise NotMountedError(log.read_text().strip().splitlines()[0])
            if time.monotonic() > deadline:
                process.terminate()
                raise SystemExit(f"attacks: no mount after {SECONDS} s, and no refusal: nothing was shown")
            time.sleep(0.02)


class Securetf(System):
    """This project, with a local trust file."""

    def create(self) -> None:
        """Make key and state."""
        LocalTrust.create(self.area / "trust")

    def command(self, store: Path, mounted: Path, *, writable: bool) -> list[str]:
        """Return the command of the user."""
        begin = [sys.executable, "-m", "securetf", "volume", "mount", str(store), str(mounted)]
        return [*begin, "--trust-file", str(self.area / "trust"), *(["--writable"] if writable else [])]

    def end(self, process: subprocess.Popen[bytes], mounted: Path) -> None:  # noqa: ARG002
        """Ask it to commit and to unmount."""
        process.send_signal(signal.SIGTERM)


class Gocryptfs(System):
    """As Debian ships it."""

    def create(self) -> None:
        """Make an empty file system under a password."""
        self.store.mkdir()
        (self.area / "password").write_text("benchmark")
        secret = ["-passfile", str(self.area / "password"), "-scryptn", "10"]
        subprocess.run(["gocryptfs", "-q", "-init", *secret, str(self.store)], check=True)

    def command(self, store: Path, mounted: Path, *, writable: bool) -> list[str]:
        """Return it with its defaults."""
        access = [] if writable else ["-ro"]
        secret = ["-passfile", str(self.area / "password")]
        return ["gocryptfs", "-fg", "-q", *access, *secret, str(store), str(mounted)]


class Securefs(System):
    """As Debian ships it, in its default format."""

    def create(self) -> None:
        """Make an empty file system under a password."""
        self.store.mkdir()
        subprocess.run(
            ["securefs", "create", "--pass", "benchmark", "-r", "1", str(self.store)],
            check=True,
            capture_output=True,
        )

    def command(self, store: Path, mounted: Path, *, writable: bool) -> list[str]:  # noqa: ARG002
        """Return it with its defaults; it has no read-only mount."""
        return ["securefs", "mount", "--pass", "benchmark", str(store), str(mounted)]


def systems(area: Path) -> list[System]:
    """Return all contenders, each with a directory of its own."""
    found: list[System] = [
        Securetf("securetf", area / "securetf", 0, 65536, mirrored=False),
        Gocryptfs("gocryptfs", area / "gocryptfs", 18, 4096 + 32, mirrored=True),
        Securefs("securefs", area / "securefs", 16, 4096 + 28, mirrored=True),
    ]
    for system in found:
        system.area.mkdir()
    return found
