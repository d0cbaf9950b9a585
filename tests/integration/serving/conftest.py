"""One service for all tests that only ask."""

import pytest

from support.service import put, serving


@pytest.fixture(scope="package")
def served(tmp_path_factory):
    repository = tmp_path_factory.mktemp("serving") / "models"
    for model, file in (("small", "small1"), ("pair", "pair"), ("spin", "spin")):
        put(repository, model, 1, file)
    with serving(repository, "--label", "small:stable=1") as found:
        yield found
