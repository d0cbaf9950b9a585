"""A directory in the place of configfs-tsm."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from securetf.attester import configfs_tsm


class FakeKernel:
    """A directory that behaves as configfs-tsm does: files appear with mkdir, the report with a write."""

    def __init__(self, root: Path, provider: str, answer: Callable[[bytes], bytes]) -> None:
        self.root, self.provider, self.answer = root, provider, answer
        self.auxblob: bytes | None = None
        self.extra_writes = 0
        self.made: list[Path] = []

    def mkdir(self, directory: Path) -> None:
        if not self.root.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        directory.mkdir()
        self.made.append(directory)
        (directory / "provider").write_text(f"{self.provider}\n")
        (directory / "generation").write_text("0\n")

    def write(self, path: Path, content: bytes) -> None:
        assert path.name == "inblob"
        (path.parent / "outblob").write_bytes(self.answer(content))
        if self.auxblob is not None:
            (path.parent / "auxblob").write_bytes(self.auxblob)
        (path.parent / "generation").write_text(f"{1 + self.extra_writes}\n")

    def rmdir(self, directory: Path) -> None:
        for path in directory.iterdir():  # the kernel's files go with their directory
            path.unlink()
        directory.rmdir()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeKernel":
        """Have the attesters meet this kernel."""
        monkeypatch.setattr(configfs_tsm, "_mkdir", self.mkdir)
        monkeypatch.setattr(configfs_tsm, "_write", self.write)
        monkeypatch.setattr(configfs_tsm, "_remove", self.rmdir)
        return self
