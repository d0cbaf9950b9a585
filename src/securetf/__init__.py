"""securetf: unmodified TensorFlow programs on machines that are not trusted."""

import importlib
from typing import Any

__version__ = "0.1.0"
_CLIENT = ("Connection", "connect")


def __getattr__(name: str) -> Any:
    """Load `securetf.client` when one of its names is first asked for: the launcher never does."""
    if name in _CLIENT:
        return getattr(importlib.import_module("securetf.client"), name)
    raise AttributeError(f"module 'securetf' has no attribute {name!r}")
