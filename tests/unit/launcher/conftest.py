"""A launch that is taken down after the test."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.launching import Launch


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    one = Launch(tmp_path)
    yield one
    for process in one.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    left = [Path(one.base)] if Path(one.base).exists() else []
    for path in left:  # only after a test that failed
        with contextlib.suppress(OSError):
            path.rmdir()
