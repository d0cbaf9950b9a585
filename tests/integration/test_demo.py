"""`securetf demo` as a user runs it: each check holds, the word SIMULATION is there, nothing is left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REFUSALS = ("Bad message", "STF-2010", "STF-2011", "STF-2012", "STF-1104", "STF-1301", "STF-1403")


@pytest.mark.root
@pytest.mark.tensorflow
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_demo_when_run_shows_each_check_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "securetf", "demo", "--quick"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SIMULATION" in result.stdout
    assert "the weights are the same, bit by bit" in result.stdout
    assert "none of the pieces of plaintext searched for is there" in result.stdout
    assert [code for code in REFUSALS if code not in result.stdout] == []
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert _processes_in(tmp_path) == []


def test_demo_when_the_example_is_missing_says_so_and_starts_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "securetf", "demo"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "STF-1001" in result.stderr
    assert "--example" in result.stderr


def _processes_in(directory: Path) -> list[str]:
    """Return the processes that work below `directory`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(directory):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found
