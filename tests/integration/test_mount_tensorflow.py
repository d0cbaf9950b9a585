"""TensorFlow, Keras and h5py work on a mounted volume without knowing it."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.root
@pytest.mark.tensorflow
def test_each_tensorflow_format_written_on_a_mount_reads_back_on_the_next(
    new_volume: Callable[..., Any],
) -> None:
    packed = new_volume()
    with packed.mounted(writable=True) as host:
        host.program("tensorflow_program.py", "write")
        host.program("tensorflow_program.py", "read")
        assert host.close() == {"closed": True}
    with packed.mounted(writable=False) as host:
        host.program("tensorflow_program.py", "read")
        assert host.ask(stats=True)["integrity_errors"] == 0
        assert host.close() == {"closed": True}
