"""How the processes of pytest-xdist (`-n 2`) share the tests out; what all tests may use."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

TOGETHER = "tests/integration/"  # files whose tests share a CAS and more: one process each
CLUSTERS = (  # TensorFlow with as many processes as the machine can bear: one after another
    "tests/integration/distributed/test_mirrored.py",
    "tests/integration/distributed/test_servers.py",
)


def share_of(test: str) -> str:
    """Return the name of what a test (its node id) must run in one process with."""
    file = test.partition("::")[0]
    if file in CLUSTERS:
        return "clusters"
    return file if file.startswith(TOGETHER) else test


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share out by `share_of`: a fixture of a module exists once in each process that needs it.

    Not `--dist loadgroup`: pytest-xdist 3.8 writes groups where pytest 9.2 does not read them.
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415  (only with -n)

    class Shares(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return share_of(nodeid)

    return Shares(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long: it would leave a core idle at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile: where a parser is as deep as Python goes, finalizers fail."""
    gc.disable()
    yield
    gc.enable()
