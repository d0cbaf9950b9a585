"""How the processes of pytest-xdist (`-n 2`) share the tests out."""

from pathlib import Path

import pytest

OWN_PROCESSES = Path(__file__).with_name("integration")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep files together whose tests share a CAS or a cluster, and begin with what takes long.

    A fixture of a module exists once in each process that runs a test of the module; a cluster of TensorFlow
    processes, on two cores, had better exist once. What takes long and comes last leaves a core idle.
    """
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if OWN_PROCESSES in item.path.parents and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
