"""Engines: what turns a version directory into answers. One file each; they never import each other."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from securetf.serving.errors import ModelLoadError
from securetf.serving.tensors import Array, Signature

_MODULES = {".tflite": "litert", ".keras": "tensorflow", "saved_model.pb": "tensorflow"}


Read = Callable[[Path], bytes]


class Engine(Protocol):
    """One loaded model. Used by one thread at a time, except where the engine itself says more."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What the model takes and gives, by name of signature."""
        ...

    def prepare(self) -> None:
        """Do ahead what the first `infer` would do besides computing.

        Raises:
            ModelLoadError: the model's own tensors do not fit together.
        """
        ...

    def infer(self, signature: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs for inputs that `tensors.check_inputs` accepted.

        Raises:
            Refusal: the model cannot compute on these inputs.
        """
        ...


class Loader(Protocol):
    """A module of this package."""

    def load(self, model: Path, *, workers: int, threads: int, read: Read) -> Sequence[Engine]:
        """Return one engine for each worker, each computing on `threads` threads. A model that is one file
        whose bytes the engine takes is read by `read`, once.

        Raises:
            ModelLoadError: not a model that this engine can load.
        """
        ...


def model_file(directory: Path) -> Path | None:
    """Return what is to be loaded in a version directory: its one .tflite or .keras file, or the directory
    itself if it is a SavedModel; None if it holds nothing of these.

    Raises:
        ModelLoadError: it holds several. OSError: the directory cannot be read.
    """
    found = sorted(path for path in directory.iterdir() if path.suffix in _MODULES or path.name in _MODULES)
    if len(found) > 1:
        raise ModelLoadError(
            f"version directory {directory.name} holds {len(found)} models",
            "leave one .tflite, one .keras or one SavedModel in each version directory",
        )
    if not found:
        return None
    return directory if found[0].name in _MODULES else found[0]


def load(model: Path, *, workers: int, threads: int, read: Read = Path.read_bytes) -> Sequence[Engine]:
    """Load with the engine for this kind of model; the engine's module is imported only now.

    Raises:
        ModelLoadError: no model, not a good one, or its engine is not installed.
    """
    name = _MODULES.get(model.suffix, "tensorflow")
    try:
        loader = cast(Loader, importlib.import_module(f"securetf.serving.engines.{name}"))
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"{model.name} needs the engine {name}, which is not installed: no module {error.name}",
            "install securetf[serving] for LiteRT, securetf[tensorflow] for SavedModel and .keras",
        ) from None
    return loader.load(model, workers=workers, threads=threads, read=read)
