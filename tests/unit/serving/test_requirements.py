"""What a service needs stands in one list."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_serving_requirements_when_compared_with_the_extra_are_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements" / "serving.in").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith(("#", "-c", "backports.strenum"))}
    assert listed == set(project["optional-dependencies"]["serving"])
