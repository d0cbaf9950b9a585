"""What a user sees when the storage of a volume cannot be read, or a part of it is gone."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_bad_input import SECUR_ETF, refused


@pytest.mark.parametrize(
    ("spoil", "exit_code", "code", "problem", "fix"),
    [
        (lambda part: part["data"].write_bytes(b""), 20, "STF-2010", "big", "restore|put back"),
        (lambda part: directory(part["data"]), 21, "STF-2003", "big|directory|data/", "."),
        (lambda part: directory(part["journal"]), 21, "STF-2003", "directory|journal", "."),
        (lambda part: part["journal"].unlink(), 20, "STF-2011", "anchor", "restore"),
    ],
    ids=["data cut to nothing", "data unreadable", "journal unreadable", "journal gone"],
)
def test_volume_cat_when_its_storage_cannot_be_read_says_which_part(
    tmp_path: Path,
    spoil: Callable[[dict[str, Path]], object],
    exit_code: int,
    code: str,
    problem: str,
    fix: str,
) -> None:
    source, volume, trust = tmp_path / "source", tmp_path / "volume", tmp_path / "trust"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(300_000))
    for argv in (["create", volume], ["pack", source, volume]):
        subprocess.run(
            [*SECUR_ETF, "volume", *argv, "--trust-file", trust], check=True, stdout=subprocess.DEVNULL
        )
    parts = {
        "data": max((volume / "data").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()),
        "journal": max((volume / "metadata").iterdir(), key=lambda path: path.stat().st_size),
    }
    spoil(parts)
    argv = [*SECUR_ETF, "volume", "cat", volume, "big", "--trust-file", trust]
    refused(argv, exit_code, code, problem, fix)


def directory(path: Path) -> None:
    """Put a directory where a file was: not even root can read it as one."""
    path.unlink()
    path.mkdir()
