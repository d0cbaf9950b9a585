"""The software measurement of the simulated platform: what MRTD stands for there."""

from pathlib import Path


def software_measurement(package: Path | None = None, executable: Path | None = None) -> bytes:
    """Return SHA-384 (48 bytes) over the installed securetf package and the interpreter."""
    raise NotImplementedError
