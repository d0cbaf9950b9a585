"""The example's Manifest with this machine's values, and its program as it is packed."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from securetf.errors import DemoError, UsageError

PROGRAM = ("train.py", "local_mnist.py")  # the files of the volume `code`
_MEASUREMENT = "0" * 96
_INTERPRETER = "/usr/bin/python3"
_COMMAND_END = '"/model"]'


@dataclass(frozen=True, slots=True)
class Example:
    """The folder examples/mnist of a checkout."""

    folder: Path

    def check(self) -> None:
        """Raise UsageError if the folder does not hold the example."""
        for name in (*PROGRAM, "manifest.toml", "prepare_data.py"):
            if not (self.folder / name).is_file():
                raise UsageError(
                    f"{self.folder / name} is not there",
                    "run `securetf demo` in a checkout, or name its examples/mnist with `--example`",
                )

    def first_manifest(self, *, measurement: str, epochs: int | None) -> str:
        """Return the Manifest's text with the measurement, this interpreter and, if given, the epochs."""
        text = (self.folder / "manifest.toml").read_text()
        text = _replaced(text, _MEASUREMENT, measurement)
        text = _replaced(text, _INTERPRETER, sys.executable)
        return text if epochs is None else _replaced(text, _COMMAND_END, f'"/model", "{epochs}"]')

    def copy_program(self, target: Path) -> None:
        """Copy the program's files to the new directory `target`."""
        target.mkdir()
        for name in PROGRAM:
            shutil.copy(self.folder / name, target / name)


def next_manifest(text: str, *, predecessor: str, roots: Mapping[str, str]) -> str:
    """Return the second version: it names its predecessor and pins volumes to their packed roots."""
    text = _replaced(text, "\n\n[access]", f'\npredecessor = "{predecessor}"\n\n[access]')
    for volume, root in roots.items():
        text = _replaced(text, f"[volumes.{volume}]\n", f'[volumes.{volume}]\nroot = "{root}"\n')
    return text


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise DemoError(
            f"the example's Manifest holds {old[:40]!r} {text.count(old)} times, expected once",
            "restore examples/mnist/manifest.toml",
        )
    return text.replace(old, new)
